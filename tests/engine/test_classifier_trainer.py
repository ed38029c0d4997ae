"""Training, resuming and evaluating classifiers, with the same trainer."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.engine import FlowDetCheckpointer, Trainer, evaluate, load_trained, resolve_config
from tests.engine.runs import assert_resumes_exactly, final_checkpoint, train
from tests.flowcls.tiny import tiny_cfg, tiny_model


def register_records(name, records, classes):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="classification")


@pytest.fixture(scope="module")
def small_digits():
    """The first images of the digits, as separate datasets."""
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
    train_name, test_name = small_digits
    cfg = tiny_cfg("mnist_flow_cnn", NUM_CLASSES=0, DROPOUT=0.1, NUM_BLOCKS=2)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train_name,), (test_name,)
    cfg.INPUT.CROP_PADDING = 1
    cfg.SOLVER.EMA_DECAY = 0.5
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.WARMUP_EPOCHS = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 6, 2
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 3, 4
    cfg.TEST.SAMPLE_IMAGES = 0
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
@pytest.mark.parametrize("states", ["rollout", "interpolated"])
@pytest.mark.parametrize("topology", ["parallel", "sequential"])
def test_resumed_training_equals_an_uninterrupted_one(cfg, tmp_path, schedule, states, topology):
    node = cfg.MODEL.FLOW_CLS
    node.SCHEDULE, node.TRAINING_STATES, node.TOPOLOGY = schedule, states, topology
    node.IN_FEATURES = ["stage2", "stage3"]
    node.ITERS_PER_EPOCH = 2
    assert_resumes_exactly(cfg, tmp_path)


def test_raw_and_averaged_weights_are_evaluated(cfg, tmp_path):
    results = train(cfg, tmp_path / "run")._last_eval_results
    assert list(results) == ["classification", "classification_ema"]
    assert results["classification"].keys() == results["classification_ema"].keys()
    checkpoint = final_checkpoint(tmp_path / "run")
    assert int(checkpoint["ema"]["n_averaged"]) == 6
    name = "embedding.projection.weight"
    assert not torch.equal(checkpoint["ema"][f"module.{name}"], checkpoint["model"][name])
    # evaluated from the checkpoint, both have the same results
    cfg = resolve_config(cfg)
    model = Trainer.build_model(cfg)
    average = load_trained(cfg, model, str(tmp_path / "run" / "model_final.pth"))
    assert evaluate(cfg, model, average) == results


def test_several_test_datasets_have_separate_results(cfg):
    cfg.DATASETS.TEST = cfg.DATASETS.TEST + cfg.DATASETS.TRAIN
    cfg = resolve_config(cfg)
    results = evaluate(cfg, Trainer.build_model(cfg))
    assert list(results) == ["few_digits_test", "few_digits_train"]
    assert all(list(tasks) == ["classification"] for tasks in results.values())


def test_permuted_test_labels_change_the_accuracy_but_no_prediction(cfg, small_digits):
    cfg = resolve_config(cfg)
    model = Trainer.build_model(cfg).eval()
    name = small_digits[1]
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    # the classes that the model predicts, so that all its predictions are correct
    (batch,) = Trainer.build_test_loader(cfg, name)
    assert not any("label" in x for x in batch)
    predicted = [int(x["logits"][0].argmax()) for x in model(batch)]
    wrong = [(label + 1) % 10 for label in predicted]
    outputs, accuracies = [], []
    for i, labels in enumerate((predicted, wrong)):
        other = [r | {"label": label} for r, label in zip(records, labels, strict=True)]
        register_records(f"relabeled{i}", other, metadata.thing_classes)
        (batch,) = Trainer.build_test_loader(cfg, f"relabeled{i}")
        outputs.append(torch.stack([x["logits"] for x in model(batch)]))
        cfg.DATASETS.TEST = (f"relabeled{i}",)
        accuracies.append(evaluate(cfg, model)["classification"]["top1"])
    assert torch.equal(*outputs)
    assert accuracies == [100, 0]


def test_fine_tuning_on_other_classes(cfg, tmp_path):
    model = tiny_model("mnist_flow_cnn", DROPOUT=0.1, NUM_BLOCKS=2, NUM_CLASSES=4)
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


def test_every_inference_mode_of_a_trained_classifier_fits_its_training_images(cfg, tmp_path):
    cfg.MODEL.FLOW_CLS.HIDDEN_DIM = 32
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA_DECAY = 60, 0.0
    cfg.SOLVER.BASE_LR = 1e-2
    cfg.TEST.EVAL_PERIOD, cfg.INPUT.CROP_PADDING = 60, 0
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    results = train(cfg, tmp_path / "run")._last_eval_results["classification"]
    # chance is 10
    for mode in ("ensemble", "multi_step-1", "multi_step-2", "multi_step-4", "single_step-0"):
        assert results[f"top1-{mode}"] > 60, mode
