"""Keys that depend on the machine or the dataset."""

import logging
from collections import Counter

import detectron2.utils.logger
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config.errors import ConfigError
from flowdet.engine import resolve_config
from flowdet.engine.resolve import resolve_model
from tests.detection.tiny import tiny_cfg
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg

IMAGES = {f"image{i}": [((2, 3, 30, 33), "cat", 0)] for i in range(9)} | {
    "hard": [((2, 3, 30, 33), "dog", 1)]
}


def without_epochs(cfg):
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.WARMUP_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    cfg.TEST.EVAL_EPOCHS = 0
    return cfg


@pytest.fixture
def cfg(voc_dataset):
    """Ten images of cat, dog, owl in batches of 4; one has a difficult object only."""
    cfg = without_epochs(tiny_cfg(NUM_CLASSES=0))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


@pytest.fixture
def classifier_cfg():
    """40 and 12 images of ten classes in batches of 8."""
    metadata = MetadataCatalog.get("sklearn_digits_train")
    for name, count in (("few_digits_train", 40), ("few_digits_test", 12)):
        records = [{"image_id": str(i), "label": 0} for i in range(count)]
        DatasetCatalog.register(name, lambda records=records: records)
        MetadataCatalog.get(name).set(
            thing_classes=metadata.thing_classes, evaluator_type="classification"
        )
    cfg = without_epochs(tiny_classifier_cfg("mnist_flow_cnn", NUM_CLASSES=0))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("few_digits_train",), ("few_digits_test",)
    cfg.SOLVER.IMS_PER_BATCH = 8
    return cfg


def test_epochs_become_iterations(cfg):
    cfg.SOLVER.MAX_EPOCHS = 8
    cfg.SOLVER.STEP_EPOCHS = [4, 6]
    cfg.SOLVER.WARMUP_EPOCHS = 2
    cfg.SOLVER.CHECKPOINT_EPOCHS = 3
    cfg.TEST.EVAL_EPOCHS = 6
    resolve_config(cfg)
    # an epoch has 2.5 iterations
    assert cfg.SOLVER.MAX_ITER == 20
    assert cfg.SOLVER.STEPS == (10, 15)
    assert cfg.SOLVER.WARMUP_ITERS == 5
    # 7.5, rounded up
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 8
    assert cfg.TEST.EVAL_PERIOD == 15
    # 2.5, rounded to the even number
    assert cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH == 2


def test_without_epochs_the_iterations_stay(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 77, (33, 44), 3
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 5, 6
    cfg.MODEL.FLOW_DET.SCHEDULE, cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = "alternate", 9
    resolve_config(cfg)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (77, (33, 44), 3)
    assert (solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (5, 6)
    assert cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH == 9


def test_epochs_of_a_classifier_set_the_keys_of_its_own_node(classifier_cfg):
    classifier_cfg.SOLVER.MAX_EPOCHS = 3
    resolve_config(classifier_cfg)
    assert classifier_cfg.SOLVER.MAX_ITER == 15
    assert classifier_cfg.MODEL.FLOW_CLS.ITERS_PER_EPOCH == 5
    assert classifier_cfg.MODEL.FLOW_CLS.NUM_CLASSES == 10
    node = classifier_cfg.MODEL.FLOW_DET
    assert node.ITERS_PER_EPOCH == node.NUM_CLASSES == 0


def test_another_length_of_an_epoch_is_logged_if_the_schedule_depends_on_it(cfg, caplog):
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 9
    with caplog.at_level(logging.WARNING):
        # such as in the config.yaml of a run with another dataset; the report shows epochs
        joint = resolve_config(cfg.clone())
        assert joint.MODEL.FLOW_DET.ITERS_PER_EPOCH == 2
        assert "ITERS_PER_EPOCH" not in caplog.text
        cfg.MODEL.FLOW_DET.SCHEDULE = "alternate"
        resolve_config(cfg)
    assert "MODEL.FLOW_DET.ITERS_PER_EPOCH is 9, but an epoch has 2 iterations" in caplog.text


def test_default_steps_beyond_the_end_are_dropped(cfg):
    cfg.SOLVER.MAX_EPOCHS = 4
    cfg.SOLVER.STEPS = (5, 30000)
    assert resolve_config(cfg).SOLVER.STEPS == (5,)


def test_too_long_warm_up_is_shortened(classifier_cfg, caplog):
    cfg = classifier_cfg
    cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.MAX_EPOCHS = 5, 4
    with caplog.at_level(logging.WARNING):
        resolved = resolve_config(cfg.clone())
    assert (resolved.SOLVER.MAX_ITER, resolved.SOLVER.WARMUP_ITERS) == (20, 2)
    assert "a warm-up of 25 iterations is too long" in caplog.text
    cfg.SOLVER.MAX_EPOCHS = 10
    assert resolve_config(cfg).SOLVER.WARMUP_ITERS == 25


def test_epoch_has_the_images_that_are_trained_on(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.SOLVER.MAX_EPOCHS = 1
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 10
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 9
    cfg.DATASETS.TRAIN_ON_DIFFICULT = True
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 10


def test_fewer_images_than_a_batch_are_one_iteration_per_epoch(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 64
    cfg.SOLVER.MAX_EPOCHS = 3
    assert resolve_config(cfg).SOLVER.MAX_ITER == 3


def test_batch_size_of_zero_is_refused(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 0, but must be at least 1"):
        resolve_config(cfg)


def test_classes_come_from_the_dataset(cfg):
    assert resolve_config(cfg).MODEL.FLOW_DET.NUM_CLASSES == 3
    assert resolve_config(cfg, training=False).MODEL.FLOW_DET.NUM_CLASSES == 3
    assert cfg.MODEL.CLASS_NAMES == ["cat", "dog", "owl"]
    cfg.MODEL.FLOW_DET.NUM_CLASSES = 20
    with pytest.raises(ValueError, match="NUM_CLASSES is 20, but dataset 'pets' has 3 classes"):
        resolve_config(cfg)


def test_class_count_of_a_classifier_must_be_that_of_the_dataset(classifier_cfg):
    classifier_cfg.MODEL.FLOW_CLS.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="MODEL.FLOW_CLS.NUM_CLASSES is 7.*has 10 classes"):
        resolve_config(classifier_cfg)


def test_classes_that_are_known_only_once_the_dataset_is_read(cfg):
    def read():
        MetadataCatalog.get("late").thing_classes = ["a", "b"]
        return []

    DatasetCatalog.register("late", read)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("late",)
    assert resolve_config(cfg, training=False).MODEL.FLOW_DET.NUM_CLASSES == 2


def test_class_names_of_a_run_serve_where_its_datasets_are_missing(cfg):
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("gone",)
    cfg.MODEL.CLASS_NAMES, cfg.MODEL.FLOW_DET.NUM_CLASSES = ["a", "b"], 2
    assert resolve_model(cfg.clone()).MODEL.CLASS_NAMES == ["a", "b"]
    cfg.MODEL.FLOW_DET.NUM_CLASSES = 3
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, but MODEL.CLASS_NAMES has 2 names"):
        resolve_model(cfg)


def test_class_names_of_another_run_are_refused_in_training(cfg):
    cfg.MODEL.CLASS_NAMES = ["cat", "dog", "emu"]
    message = "class 2 is 'emu' in the first and 'owl' in the second.*not its config.yaml"
    with pytest.raises(ValueError, match=message):
        resolve_config(cfg)
    # the number of classes alone would not say which
    cfg.MODEL.CLASS_NAMES, cfg.MODEL.FLOW_DET.NUM_CLASSES = ["cat", "dog"], 2
    message = r"\(2 classes\) and dataset .* \(3\) have .*class 2 is missing in the .* and 'owl' in"
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            resolve_config(cfg.clone(), training=training)


def test_datasets_of_other_classes_or_another_task_are_refused(classifier_cfg, cfg):
    one = classifier_cfg
    one.DATASETS.TEST = ("cifar10_test",)
    message = "class 0 is '0' in the first and 'airplane' in the second"
    with pytest.raises(ValueError, match=message):
        resolve_config(one.clone())
    one.DATASETS.TEST = ("digits_test",)
    with pytest.raises(ValueError, match="'digits_test' has evaluator_type 'pascal_voc'"):
        resolve_config(one)
    cfg.DATASETS.TRAIN = ("few_digits_train",)
    with pytest.raises(ValueError, match="FlowMatchingDetector needs 'pascal_voc' or 'coco'"):
        resolve_config(cfg)


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "\u202eabc", "\ud83d", "x" * 1001, "", "  "])
def test_class_names_of_registered_datasets_with_control_characters_are_refused(cfg, name):
    metadata = MetadataCatalog.get("control_characters")
    metadata.set(thing_classes=["cat", name], evaluator_type="pascal_voc")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("control_characters",)
    try:
        DatasetCatalog.register("control_characters", list)
        with pytest.raises(ValueError, match="'control_characters' has the class name") as raised:
            resolve_config(cfg)
    finally:
        DatasetCatalog.remove("control_characters")
        MetadataCatalog.pop("control_characters")
    assert str(raised.value).isprintable()


def test_unknown_dataset_lists_similar_names(cfg):
    cfg.DATASETS.TRAIN = ("voc_2007_trainvall",)
    with pytest.raises(ConfigError, match="'voc_2007_trainvall'.*similar names: voc_2007_trainval"):
        resolve_config(cfg)


def test_without_datasets_the_class_count_must_be_given(cfg):
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match="DATASETS.TRAIN is empty.*NUM_CLASSES"):
        resolve_config(cfg, training=False)
    cfg.MODEL.FLOW_DET.NUM_CLASSES = 4
    resolve_config(cfg, training=False)
    assert cfg.MODEL.FLOW_DET.NUM_CLASSES == 4 and cfg.MODEL.CLASS_NAMES == ["0", "1", "2", "3"]


def test_missing_datasets_are_downloaded_only_with_the_key(classifier_cfg, monkeypatch):
    downloaded = []
    monkeypatch.setattr("flowdet.engine.resolve.download", downloaded.extend)
    resolve_config(classifier_cfg.clone())
    assert downloaded == []
    classifier_cfg.DATASETS.DOWNLOAD = True
    resolve_config(classifier_cfg)
    assert downloaded == ["few_digits_train", "few_digits_test"]


def test_without_a_gpu_the_device_is_the_cpu(cfg, monkeypatch, caplog):
    # it is logged once per process, and an earlier test may have caused it
    monkeypatch.setattr(detectron2.utils.logger, "_LOG_COUNTER", Counter())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.AMP.ENABLED = True
    again = cfg.clone()
    with caplog.at_level(logging.WARNING):
        resolve_config(cfg)
        resolve_config(again)
    assert cfg.MODEL.DEVICE == again.MODEL.DEVICE == "cpu" and not cfg.SOLVER.AMP.ENABLED
    assert caplog.text.count("there is no GPU") == caplog.text.count("SOLVER.AMP") == 1


def test_with_a_gpu_device_and_amp_stay(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.AMP.ENABLED = True
    resolve_config(cfg)
    assert cfg.MODEL.DEVICE == "cuda" and cfg.SOLVER.AMP.ENABLED
