"""A training is resumed with other images or annotations."""

import copy

import pytest

from flowdet.engine import dataset_versions as module
from flowdet.engine.dataset_versions import dataset_versions, warn_of_changed_datasets
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import train

IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), "cat", i == 1)] for i in range(3)}


@pytest.fixture
def cfg(voc_dataset):
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    return cfg


def test_counts_and_checksum(cfg):
    ((name, version),) = dataset_versions(cfg).items()
    # with objects that are marked difficult
    assert name == cfg.DATASETS.TRAIN[0] and version.startswith("3 images with 3 objects (checksum")
    assert dataset_versions(cfg) == {name: version}
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("sklearn_digits_train",), ("sklearn_digits_test",)
    cfg.MODEL.META_ARCHITECTURE = "FlowMatchingClassifier"
    versions = dataset_versions(cfg)
    assert [*versions] == ["sklearn_digits_train", "sklearn_digits_test"]
    assert versions["sklearn_digits_test"].split()[:3] == ["360", "images", "(checksum"]


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records.pop(),
        lambda records: records[0].update(image_id="other"),
        lambda records: records[0]["annotations"][0].update(category_id=1),
        lambda records: records[0]["annotations"][0]["bbox"].__setitem__(2, 31.0),
        lambda records: records[0]["annotations"].clear(),
        lambda records: records.reverse(),
    ],
)
def test_every_change_changes_the_checksum(change, cfg):
    records = [
        {"image_id": i, "annotations": [{"category_id": 0, "bbox": [1.0, 2.0, 30.0, 40.0]}]}
        for i in range(2)
    ]
    before = module._version(copy.deepcopy(records))
    change(records)
    assert module._version(records) != before


def test_changed_datasets_are_named(caplog):
    warn_of_changed_datasets({"a": "1", "b": "2"}, {"a": "1", "c": "3"})
    assert not caplog.records
    warn_of_changed_datasets({"a": "8 images"}, {"a": "9 images"})
    assert "the dataset a has changed since the run" in caplog.text
    assert "it had 8 images and has 9 images now" in caplog.text


def test_a_resumed_training_compares(cfg, tmp_path, caplog, monkeypatch):
    cfg.INPUT.FIXED_SIZE, cfg.DATALOADER.NUM_WORKERS = [48, 64], 0
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 0, 1, 1
    cfg.TEST.EVAL_EPOCHS = cfg.TEST.EVAL_PERIOD = cfg.TEST.SAMPLE_IMAGES = 0
    train(cfg, tmp_path / "run")
    cfg.SOLVER.MAX_ITER = 2
    train(cfg, tmp_path / "run", resume=True)
    assert "has changed" not in caplog.text
    cfg.SOLVER.MAX_ITER = 3
    monkeypatch.setattr(
        "flowdet.engine.trainer.dataset_versions", lambda _: {cfg.DATASETS.TRAIN[0]: "4"}
    )
    train(cfg, tmp_path / "run", resume=True)
    assert "it had 3 images with 3 objects (checksum" in caplog.text
