"""Training, resuming, evaluating and fine-tuning classifiers by the common trainer."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.engine import (
    FlowDetCheckpointer,
    Trainer,
    evaluate,
    load_trained,
    resolve_config,
)
from flowdet.engine.task_builders import CLASSIFICATION, DETECTION, task_of
from tests.detection.tiny import tiny_cfg as tiny_detector_cfg
from tests.engine.runs import train
from tests.flowcls.tiny import tiny_cfg, tiny_model


def register_records(name, records, classes):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="classification")


@pytest.fixture(scope="module")
def small_digits():
    """The first images of the digits, as datasets of their own."""
    names = []
    for split, count in (("train", 40), ("test", 12)):
        name = f"few_digits_{split}"
        records = DatasetCatalog.get(f"sklearn_digits_{split}")[:count]
        register_records(
            name, records, MetadataCatalog.get(f"sklearn_digits_{split}").thing_classes
        )
        names.append(name)
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(small_digits, tmp_path):
    train, test = small_digits
    cfg = tiny_cfg("mnist_flow_cnn", NUM_CLASSES=0, DROPOUT=0.1, NUM_BLOCKS=2)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (test,)
    cfg.INPUT.CROP_PADDING = 1
    cfg.SOLVER.EMA_DECAY = 0.5
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.WARMUP_EPOCHS = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 6, 2
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 3, 2
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def checkpoint(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
@pytest.mark.parametrize("states", ["rollout", "interpolated", "chain, sequential"])
def test_an_interrupted_training_goes_on_as_if_it_was_not(cfg, tmp_path, schedule, states):
    cfg.MODEL.FLOW_CLS.SCHEDULE = schedule
    cfg.MODEL.FLOW_CLS.TRAINING_STATES, *sequential = states.split(", ")
    if sequential:
        cfg.MODEL.FLOW_CLS.TOPOLOGY = "sequential"
        cfg.MODEL.FLOW_CLS.IN_FEATURES = ["stage2", "stage3"]
    cfg.MODEL.FLOW_CLS.ITERS_PER_EPOCH = 2
    whole = train(cfg, tmp_path / "whole")
    # the fourth iteration is lost, and done again
    train(cfg, tmp_path / "parts", interrupt_before=4)
    resumed = train(cfg, tmp_path / "parts", resume=True)
    assert resumed.start_iter == 3
    one, two = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for key in ("model", "ema"):
        assert one[key].keys() == two[key].keys()
        for name, tensor in one[key].items():
            assert torch.equal(tensor, two[key][name]), (key, name)
    assert whole._last_eval_results == resumed._last_eval_results
    # and the seed matters, so that the comparison can fail
    cfg.SEED = 4
    train(cfg, tmp_path / "other")
    other = checkpoint(tmp_path / "other")["model"]
    assert not torch.equal(
        other["probe.classifier.weight"], one["model"]["probe.classifier.weight"]
    )


def test_raw_and_averaged_weights_are_reported_apart(cfg, tmp_path):
    trainer = train(cfg, tmp_path / "run")
    results = trainer._last_eval_results
    assert list(results) == ["classification", "classification_ema"]
    assert results["classification"].keys() == results["classification_ema"].keys()
    stored = checkpoint(tmp_path / "run")
    assert int(stored["ema"]["n_averaged"]) == 6
    name = "embedding.projection.weight"
    assert not torch.equal(stored["ema"][f"module.{name}"], stored["model"][name])
    # evaluated from the file alone, both are what they were
    cfg = resolve_config(cfg)
    model = Trainer.build_model(cfg)
    average = load_trained(cfg, model, str(tmp_path / "run" / "model_final.pth"))
    assert evaluate(cfg, model, average) == results


def test_a_checkpoint_without_an_average_has_none(cfg, tmp_path):
    cfg.SOLVER.EMA_DECAY = 0.0
    train(cfg, tmp_path / "run")
    path = str(tmp_path / "run" / "model_final.pth")
    assert "ema" not in checkpoint(tmp_path / "run")
    cfg = resolve_config(cfg)
    assert load_trained(cfg, Trainer.build_model(cfg), path) is None
    cfg.SOLVER.EMA_DECAY = 0.5
    assert load_trained(cfg, Trainer.build_model(cfg), path) is None


def test_permuting_the_test_labels_changes_accuracy_but_no_prediction(cfg, small_digits):
    cfg = resolve_config(cfg)
    model = Trainer.build_model(cfg).eval()
    name = small_digits[1]
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    # the labels that the model itself gives, so that it is right about them all
    (batch,) = Trainer.build_test_loader(cfg, name)
    assert not any("label" in x for x in batch)
    given = [int(x["logits"][0].argmax()) for x in model(batch)]
    moved = [(label + 1) % 10 for label in given]
    outputs, accuracies = [], []
    for labels in (given, moved):
        other = [r | {"label": label} for r, label in zip(records, labels, strict=True)]
        register_records("relabelled", other, metadata.thing_classes)
        try:
            (batch,) = Trainer.build_test_loader(cfg, "relabelled")
            outputs.append(torch.stack([x["logits"] for x in model(batch)]))
            cfg.DATASETS.TEST = ("relabelled",)
            accuracies.append(evaluate(cfg, model)["classification"]["top1"])
        finally:
            DatasetCatalog.remove("relabelled")
            MetadataCatalog.remove("relabelled")
    assert torch.equal(*outputs)
    assert accuracies == [100, 0]


def test_the_task_follows_the_meta_architecture():
    assert task_of(tiny_cfg()) is CLASSIFICATION
    assert task_of(tiny_cfg("digits_flow_vit+backprop")) is CLASSIFICATION
    assert task_of(tiny_detector_cfg()) is DETECTION
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Nothing"
    with pytest.raises(KeyError, match="Nothing"):
        task_of(cfg)


def test_classes_and_epochs_come_from_the_dataset(cfg):
    cfg.SOLVER.MAX_EPOCHS = 3
    resolved = resolve_config(cfg.clone())
    assert resolved.MODEL.FLOW_CLS.NUM_CLASSES == 10
    assert resolved.SOLVER.MAX_ITER == 15 and resolved.MODEL.FLOW_CLS.ITERS_PER_EPOCH == 5
    cfg.MODEL.FLOW_CLS.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="MODEL.FLOW_CLS.NUM_CLASSES is 7.*has 10 classes"):
        resolve_config(cfg)


def test_a_warm_up_longer_than_the_training_is_shortened(cfg, caplog):
    cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.MAX_EPOCHS = 5, 4
    with caplog.at_level(logging.WARNING):
        resolved = resolve_config(cfg.clone())
    assert (resolved.SOLVER.MAX_ITER, resolved.SOLVER.WARMUP_ITERS) == (20, 2)
    assert "the warm-up of 25 iterations is too long" in caplog.text
    cfg.SOLVER.MAX_EPOCHS = 10
    assert resolve_config(cfg).SOLVER.WARMUP_ITERS == 25


def test_datasets_of_other_classes_or_another_kind_are_refused(cfg, voc_dataset):
    cfg.DATASETS.TEST = ("cifar10_test",)
    with pytest.raises(ValueError, match="class 0 is '0' in the one and 'airplane' in the other"):
        resolve_config(cfg.clone())
    cfg.DATASETS.TEST = ("digits_test",)
    with pytest.raises(ValueError, match="'digits_test' has evaluator_type 'pascal_voc'"):
        resolve_config(cfg.clone())
    cfg.MODEL.META_ARCHITECTURE = "FlowMatchingDetector"
    with pytest.raises(ValueError, match="needs 'pascal_voc' or 'coco'"):
        resolve_config(cfg)


def test_a_batch_size_of_nothing_says_so(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match="IMS_PER_BATCH must be at least 1"):
        resolve_config(cfg)


def test_missing_datasets_are_fetched_if_asked(cfg, monkeypatch):
    fetched = []
    monkeypatch.setattr("flowdet.engine.config.download", fetched.extend)
    resolve_config(cfg.clone())
    assert fetched == []
    cfg.DATASETS.DOWNLOAD = True
    resolve_config(cfg)
    assert fetched == ["few_digits_train", "few_digits_test"]


def saved(tmp_path, **keys):
    FlowDetCheckpointer(tiny_model(**keys), str(tmp_path)).save("weights")
    return str(tmp_path / "weights.pth")


def test_other_classes_need_the_flag(tmp_path, caplog):
    path = saved(tmp_path, NUM_CLASSES=10)
    model = tiny_model(NUM_CLASSES=100)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="probe.classifier.weight.*MODEL.REINIT_CLASSES True"):
        FlowDetCheckpointer(model).load(path)
    with caplog.at_level(logging.WARNING):
        FlowDetCheckpointer(model, reinit_classes=True).load(path)
    new = {
        *("embedding.classes.weight", "embedding.projection.weight", "embedding.projection.bias"),
        *("probe.classifier.weight", "probe.classifier.bias"),
    }
    messages = [record.getMessage() for record in caplog.records]
    said = next(text for text in messages if "these tensors start anew" in text)
    assert all(name in said for name in new)
    loaded = torch.load(path, weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in new else loaded[name]), name


def test_a_training_may_start_from_other_classes(cfg, tmp_path):
    sizes = {"DROPOUT": 0.1, "NUM_BLOCKS": 2, "NUM_CLASSES": 4}
    model = tiny_model("mnist_flow_cnn", **sizes)
    FlowDetCheckpointer(model, str(tmp_path)).save("weights")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    cfg = resolve_config(cfg)
    trainer = Trainer(cfg)
    with pytest.raises(ValueError, match="MODEL.REINIT_CLASSES True"):
        trainer.resume_or_load(resume=False)
    cfg.MODEL.REINIT_CLASSES = True
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    loaded, name = trainer.model.state_dict(), "flow.time_embedding.mlp.0.weight"
    assert torch.equal(loaded[name], model.state_dict()[name])
    assert loaded["probe.classifier.weight"].shape[0] == 10


def test_a_classifier_learns(cfg, tmp_path):
    cfg.MODEL.FLOW_CLS.HIDDEN_DIM = 32
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA_DECAY = 60, 0.0
    cfg.SOLVER.BASE_LR = 1e-2
    cfg.TEST.EVAL_PERIOD, cfg.INPUT.CROP_PADDING = 60, 0
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    results = train(cfg, tmp_path / "run")._last_eval_results["classification"]
    # learned by heart, in every mode; a guess is right one time in ten
    for mode in ("ensemble", "multi_step-1", "multi_step-2", "multi_step-4", "single_step-0"):
        assert results[f"top1-{mode}"] > 60, mode


def test_the_flag_excuses_no_other_shape(tmp_path):
    path = saved(tmp_path, NUM_CLASSES=10, HIDDEN_DIM=32)
    with pytest.raises(ValueError, match="does not fit the model"):
        FlowDetCheckpointer(tiny_model(NUM_CLASSES=100), reinit_classes=True).load(path)
