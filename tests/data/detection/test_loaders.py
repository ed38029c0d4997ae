"""Detection loaders: order, seeds, workers, empty images, difficult objects, errors."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from flowdet.config import add_flowdet_config
from flowdet.config.errors import ConfigError
from flowdet.data.detection import build_test_loader, build_train_loader
from flowdet.data.detection.builtin import register_voc
from flowdet.data.detection.loaders import get_detection_dicts

IMAGES = {
    f"image{i:02d}": [((i, 2, i + 20, 22), ("cat", "dog", "owl")[i % 3], int(i == 4))]
    for i in range(9)
} | {"empty": []}


@pytest.fixture
def cfg(voc_dataset):
    cfg = get_cfg()
    add_flowdet_config(cfg)
    cfg.DATASETS.TRAIN = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [24, 32]
    cfg.INPUT.COLOR_JITTER = 0.5
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SEED = 11
    return cfg


def batches(cfg, count, **settings):
    return list(itertools.islice(build_train_loader(cfg, **settings), count))


def ids(batches):
    return [record["image_id"] for batch in batches for record in batch]


def assert_same(actual, expected):
    """Checks that two lists of batches have the same images and boxes, to the bit."""
    assert ids(actual) == ids(expected)
    for a, b in zip(sum(actual, []), sum(expected, []), strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_every_image_once_per_epoch_also_without_objects(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 5
    assert sorted(ids(batches(cfg, 2))) == sorted(IMAGES)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_resumed_loader_continues_exactly(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    assert_same(batches(cfg, 3, start_iter=4), batches(cfg, 7)[4:])


def test_batches_do_not_depend_on_the_number_of_workers(cfg):
    without_workers = batches(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 3, start_iter=2), without_workers[2:])


def test_skipped_iterations_read_no_image(cfg, monkeypatch):
    mapped = []
    mapper = "flowdet.data.detection.loaders.FlowDatasetMapper.__call__"
    monkeypatch.setattr(mapper, lambda self, record: mapped.append(record) or record)
    batches(cfg, 1, start_iter=1000)
    assert len(mapped) == 4


def test_order_depends_on_the_seed(cfg):
    first = batches(cfg, 5)
    assert_same(batches(cfg, 5), first)
    cfg.SEED = 12
    assert ids(batches(cfg, 5)) != ids(first)
    cfg.SEED = -1
    assert len(ids(batches(cfg, 5))) == 20


def test_augmentation_differs_between_epochs_and_restores_the_global_generator(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 1
    np.random.seed(5)
    expected = np.random.RandomState(5).uniform()
    images = {}
    for (record,) in batches(cfg, 20):
        images.setdefault(record["image_id"], []).append(record["image"])
    assert np.random.uniform() == expected
    assert all(not torch.equal(first, second) for first, second in images.values())


def test_empty_images_can_be_dropped(cfg):
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    # the only object in image04 is difficult; two batches are an epoch
    assert set(ids(batches(cfg, 2))) == set(IMAGES) - {"empty", "image04"}


def test_difficult_objects_are_kept_if_the_key_is_set(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 10
    for train_on_difficult in (False, True):
        cfg.DATASETS.TRAIN_ON_DIFFICULT = train_on_difficult
        counts = {r["image_id"]: len(r["instances"]) for r in batches(cfg, 1)[0]}
        assert counts["image04"] == int(train_on_difficult)
        assert counts["image03"] == 1


def test_several_datasets_are_joined(cfg, voc_dataset):
    cfg.DATASETS.TRAIN += (voc_dataset({"other": IMAGES["image01"]}, name="more"),)
    cfg.SOLVER.IMS_PER_BATCH = 11
    assert sorted(ids(batches(cfg, 1))) == sorted([*IMAGES, "other"])


def test_datasets_with_different_classes_are_an_error(cfg, voc_folder):
    register_voc("birds", voc_folder({"a": []}), "train", ["owl"])
    cfg.DATASETS.TRAIN += ("birds",)
    with pytest.raises(ValueError, match=r"'pets' and 'birds' have different classes.*\['owl'\]"):
        build_train_loader(cfg)


def test_datasets_without_any_object_are_an_error(cfg, voc_dataset):
    cfg.DATASETS.TRAIN = (voc_dataset({"a": [], "b": []}),)
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN \(pets\) has no annotated object"):
        build_train_loader(cfg)


def test_missing_dataset_and_unknown_sampler_name_the_key(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "Shuffle"
    with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN is 'Shuffle'"):
        build_train_loader(cfg)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ConfigError, match="DATASETS.TRAIN is empty"):
        build_train_loader(cfg)


def test_unknown_dataset_lists_similar_names():
    with pytest.raises(ConfigError, match="'digit_train' is not registered; .*digits_train"):
        get_detection_dicts("digit_train", keep_difficult=True)
    with pytest.raises(ValueError, match="no name is similar"):
        get_detection_dicts("", keep_difficult=True)


def test_datasets_of_other_kinds_are_read_from_the_catalog():
    record = {"image_id": 1, "annotations": []}
    DatasetCatalog.register("listed", lambda: [record])
    assert get_detection_dicts("listed", keep_difficult=False) == [record]


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_yields_every_image_once_in_order(cfg, workers):
    cfg.TEST.BATCH_SIZE = 4
    cfg.DATALOADER.NUM_WORKERS = workers
    test_batches = list(build_test_loader(cfg, "pets"))
    assert ids(test_batches) == list(IMAGES)
    assert [len(batch) for batch in test_batches] == [4, 4, 2]


def test_labels_cannot_change_test_inputs(cfg, voc_dataset):
    before = sum(build_test_loader(cfg, "pets"), [])
    other_labels = {image_id: [((0, 0, 9, 9), "owl", 1)] for image_id in IMAGES}
    after = sum(build_test_loader(cfg, voc_dataset(other_labels)), [])
    for a, b in zip(before, after, strict=True):
        assert set(a) == set(b) == {"file_name", "image_id", "height", "width", "image"}
        assert torch.equal(a["image"], b["image"])
