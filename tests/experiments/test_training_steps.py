import pytest
import torch

from flowdet.engine import build_optimizer, resolve_config
from flowdet.experiments.training_steps import (
    ShortTraining,
    synthetic_batch,
    total_loss,
    train_step,
    without_feature_cache,
)
from tests.detection.tiny import batch, tiny_cfg, tiny_model
from tests.flowcls.tiny import tiny_cfg as classifier_cfg


def test_synthetic_batch_is_what_a_detector_trains_on():
    cfg = tiny_cfg()
    cfg.INPUT.FIXED_SIZE = [48, 64]
    images = synthetic_batch(cfg, 3)
    assert len({x["image_id"] for x in images}) == len(images) == 3
    for x in images:
        assert x["image"].shape == (3, 48, 64) and x["image"].dtype == torch.uint8
        assert len(x["instances"]) == 2
        boxes = x["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= torch.tensor([64, 48])).all()
    assert not torch.equal(images[0]["image"], images[1]["image"])
    assert total_loss(tiny_model().train(), images) > 0
    cfg.INPUT.FIXED_SIZE = [0, 0]
    assert synthetic_batch(cfg, 1)[0]["image"].shape == (3, 256, 256)


def test_synthetic_batch_has_a_second_view_for_configs_that_train_on_two():
    cfg = classifier_cfg("baselines/cifar10_cff_cnn")
    one, other = synthetic_batch(cfg, 2)
    assert one["image2"].shape == one["image"].shape
    assert not torch.equal(one["image2"], one["image"])
    assert "image2" not in synthetic_batch(classifier_cfg(), 1)[0]


def test_total_loss_is_the_sum_of_the_losses():
    model = tiny_model().train()
    torch.manual_seed(0)
    losses = model(batch())
    torch.manual_seed(0)
    total = total_loss(model, batch())
    assert len(losses) > 1
    assert total.item() == pytest.approx(sum(x.item() for x in losses.values()), rel=1e-4)


def test_train_step_updates_the_weights():
    model = tiny_model().train()
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    train_step(model, batch(), build_optimizer(tiny_cfg(), model))
    assert any(not torch.equal(x, before[name]) for name, x in model.named_parameters())
    assert all(x.grad is None for x in model.parameters())


def test_short_training_keeps_its_batches(voc_dataset):
    objects = {f"img{i}": [((1, 2 + i, 20, 30), "dog", 0)] for i in range(6)}
    name = voc_dataset(objects, name="trained_pets")
    cfg = tiny_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.FIXED_SIZE = [32, 32]
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
    training = ShortTraining(resolve_config(cfg), 2)
    ids = [x["image_id"] for batch in training.batches for x in batch]
    before = [x.detach().clone() for x in training.model.parameters()]
    training.train_until(0)
    assert all(map(torch.equal, before, training.model.parameters()))
    training.train_until(2)
    training.train_until(1)
    assert training.iteration == 2
    assert not all(map(torch.equal, before, training.model.parameters()))
    assert [x["image_id"] for batch in training.batches for x in batch] == ids
    assert len(set(ids)) == 4


def test_without_feature_cache():
    cfg = tiny_cfg(FEATURE_CACHE_DIR="somewhere")
    assert without_feature_cache(cfg).MODEL.FLOW_DET.FEATURE_CACHE_DIR == ""
    assert cfg.MODEL.FLOW_DET.FEATURE_CACHE_DIR == "somewhere"
