import logging
from collections import Counter

import detectron2.utils.logger
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.engine import load_config, resolve_config
from tests.detection.tiny import CONFIGS, tiny_cfg

IMAGES = {f"image{i}": [((2, 3, 30, 33), "cat", 0)] for i in range(9)} | {
    "hard": [((2, 3, 30, 33), "dog", 1)]
}


@pytest.fixture
def cfg(voc_dataset):
    """Ten images of cat, dog, owl in batches of 4; one has a difficult object only."""
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    cfg.TEST.EVAL_EPOCHS = 0
    return cfg


def test_epochs_become_iterations(cfg):
    cfg.SOLVER.MAX_EPOCHS = 8
    cfg.SOLVER.STEP_EPOCHS = [4, 6]
    cfg.SOLVER.WARMUP_EPOCHS = 2
    cfg.SOLVER.CHECKPOINT_EPOCHS = 4
    cfg.TEST.EVAL_EPOCHS = 6
    resolve_config(cfg)
    # an epoch has 2.5 iterations
    assert cfg.SOLVER.MAX_ITER == 20
    assert cfg.SOLVER.STEPS == (10, 15)
    assert cfg.SOLVER.WARMUP_ITERS == 5
    assert cfg.SOLVER.CHECKPOINT_PERIOD == 10
    assert cfg.TEST.EVAL_PERIOD == 15
    assert cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH in (2, 3)


def test_without_epochs_the_iterations_stay(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 77, (33, 44), 3
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 5, 6
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 9
    resolve_config(cfg)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS) == (77, (33, 44), 3)
    assert (solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (5, 6)
    assert cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH == 9


def test_a_pass_of_another_length_is_told(cfg, caplog):
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 9
    with caplog.at_level(logging.WARNING):
        resolve_config(cfg.clone())
        assert "ITERS_PER_EPOCH" not in caplog.text
        cfg.MODEL.FLOW_DET.SCHEDULE = "alternate"
        resolve_config(cfg)
    assert "MODEL.FLOW_DET.ITERS_PER_EPOCH is 9, but 2 iterations are a pass" in caplog.text


def test_default_steps_beyond_the_end_are_dropped(cfg):
    cfg.SOLVER.MAX_EPOCHS = 4
    cfg.SOLVER.STEPS = (5, 30000)
    assert resolve_config(cfg).SOLVER.STEPS == (5,)


def test_an_epoch_counts_the_images_that_are_trained_on(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.SOLVER.MAX_EPOCHS = 1
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 10
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 9
    cfg.DATASETS.TRAIN_ON_DIFFICULT = True
    assert resolve_config(cfg.clone()).SOLVER.MAX_ITER == 10


def test_fewer_images_than_a_batch(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 64
    cfg.SOLVER.MAX_EPOCHS = 3
    assert resolve_config(cfg).SOLVER.MAX_ITER == 3


def test_classes_come_from_the_dataset(cfg):
    assert resolve_config(cfg).MODEL.FLOW_DET.NUM_CLASSES == 3
    assert resolve_config(cfg, training=False).MODEL.FLOW_DET.NUM_CLASSES == 3
    cfg.MODEL.FLOW_DET.NUM_CLASSES = 20
    with pytest.raises(ValueError, match="NUM_CLASSES is 20, but dataset 'pets' has 3 classes"):
        resolve_config(cfg)


def test_classes_that_are_known_only_once_the_dataset_is_read(cfg):
    def read():
        MetadataCatalog.get("late").thing_classes = ["a", "b"]
        return []

    DatasetCatalog.register("late", read)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("late",)
    assert resolve_config(cfg, training=False).MODEL.FLOW_DET.NUM_CLASSES == 2
    DatasetCatalog.remove("late")
    MetadataCatalog.remove("late")


def test_unknown_dataset_names_near_ones(cfg):
    cfg.DATASETS.TRAIN = ("voc_2007_trainvall",)
    with pytest.raises(ValueError, match="'voc_2007_trainvall'.*voc_2007_trainval"):
        resolve_config(cfg)


def test_no_dataset(cfg):
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty.*NUM_CLASSES"):
        resolve_config(cfg, training=False)
    cfg.MODEL.FLOW_DET.NUM_CLASSES = 4
    assert resolve_config(cfg, training=False).MODEL.FLOW_DET.NUM_CLASSES == 4


def test_without_a_gpu_the_cpu_serves(cfg, monkeypatch, caplog):
    # it is said once per process, and another test may have heard it
    monkeypatch.setattr(detectron2.utils.logger, "_LOG_COUNTER", Counter())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.AMP.ENABLED = True
    again = cfg.clone()
    with caplog.at_level(logging.WARNING):
        resolve_config(cfg)
        resolve_config(again)
    assert cfg.MODEL.DEVICE == again.MODEL.DEVICE == "cpu" and not cfg.SOLVER.AMP.ENABLED
    assert caplog.text.count("no GPU") == caplog.text.count("SOLVER.AMP") == 1


def test_with_a_gpu_it_is_used(cfg, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg.MODEL.DEVICE = "cuda"
    cfg.SOLVER.AMP.ENABLED = True
    resolve_config(cfg)
    assert cfg.MODEL.DEVICE == "cuda" and cfg.SOLVER.AMP.ENABLED


def test_overrides():
    cfg = load_config(
        str(CONFIGS / "digits_flow.yaml"), ["SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", "here"]
    )
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.OUTPUT_DIR == "here"


@pytest.mark.parametrize(
    "key, near",
    [
        ("MODEL.FLOW_DET.NUM_BLOKS", "MODEL.FLOW_DET.NUM_BLOCKS"),
        ("SOLVER.OPTIMISER", "SOLVER.OPTIMIZER"),
        ("MODEL.FLOWDET.NUM_QUERIES", "MODEL.FLOW_DET.NUM_QUERIES"),
    ],
)
def test_unknown_key_names_near_ones(key, near):
    with pytest.raises(KeyError, match=f"{key}.*near are.*'{near}'"):
        load_config(str(CONFIGS / "digits_flow.yaml"), ["SEED", "1", key, "3"])


def test_missing_config_file():
    with pytest.raises(FileNotFoundError, match="no config file 'configs/nothing.yaml'"):
        load_config("configs/nothing.yaml")


def test_whole_numbers_do_for_floats():
    cfg = load_config(str(CONFIGS / "digits_flow.yaml"), ["SOLVER.BASE_LR", "1", "SEED", "7"])
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SEED == 7 and isinstance(cfg.SEED, int)
