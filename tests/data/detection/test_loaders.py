import itertools

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config import add_flowdet_config
from flowdet.data.detection import build_test_loader, build_train_loader
from flowdet.data.detection.builtin import register_digits, register_voc
from flowdet.data.detection.digits import make_digits
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


def ids(found):
    return [record["image_id"] for batch in found for record in batch]


def assert_same(found, expected):
    assert ids(found) == ids(expected)
    for a, b in zip(sum(found, []), sum(expected, []), strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_every_image_once_per_epoch_and_empty_ones_stay(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 5
    assert sorted(ids(batches(cfg, 2))) == sorted(IMAGES)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_resumed_loader_continues_exactly(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    assert_same(batches(cfg, 3, start_iter=4), batches(cfg, 7)[4:])


def test_batches_do_not_depend_on_workers(cfg):
    alone = batches(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 3, start_iter=2), alone[2:])


def test_skipping_loads_no_image(cfg, monkeypatch):
    loaded = []
    mapper = "flowdet.data.detection.loaders.FlowDatasetMapper.__call__"
    monkeypatch.setattr(mapper, lambda self, record: loaded.append(record) or record)
    batches(cfg, 1, start_iter=1000)
    assert len(loaded) == 4


def test_seed_decides_the_order(cfg):
    first = batches(cfg, 5)
    assert_same(batches(cfg, 5), first)
    cfg.SEED = 12
    assert ids(batches(cfg, 5)) != ids(first)
    cfg.SEED = -1
    assert len(ids(batches(cfg, 5))) == 20


def test_augmentation_differs_between_epochs_and_leaves_the_global_generator(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 1
    np.random.seed(5)
    expected = np.random.RandomState(5).uniform()
    seen = {}
    for (record,) in batches(cfg, 20):
        seen.setdefault(record["image_id"], []).append(record["image"])
    assert np.random.uniform() == expected
    assert all(not torch.equal(*pair) for pair in seen.values())


def test_empty_images_are_dropped_on_request(cfg):
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert not {"empty", "image04"} & set(ids(batches(cfg, 6)))


def test_difficult_objects_follow_the_key(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 10
    for train_on_difficult in (False, True):
        cfg.DATASETS.TRAIN_ON_DIFFICULT = train_on_difficult
        found = {r["image_id"]: len(r["instances"]) for r in batches(cfg, 1)[0]}
        assert found["image04"] == int(train_on_difficult)
        assert found["image03"] == 1


def test_several_datasets_are_joined(cfg, voc_dataset):
    cfg.DATASETS.TRAIN += (voc_dataset({"other": IMAGES["image01"]}, name="more"),)
    cfg.SOLVER.IMS_PER_BATCH = 11
    assert sorted(ids(batches(cfg, 1))) == sorted([*IMAGES, "other"])


def test_different_classes_are_one_clear_error(cfg, voc_folder):
    register_voc("birds", voc_folder({"a": []}), "train", ["owl"])
    cfg.DATASETS.TRAIN += ("birds",)
    with pytest.raises(ValueError, match=r"'pets' and 'birds' have different classes.*\['owl'\]"):
        build_train_loader(cfg)


def test_training_without_any_object_is_refused(cfg, voc_dataset):
    cfg.DATASETS.TRAIN = (voc_dataset({"a": [], "b": []}),)
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN \(pets\) holds no annotated object"):
        build_train_loader(cfg)


def test_no_dataset_and_unknown_sampler_name_the_key(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "Shuffle"
    with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN is 'Shuffle'"):
        build_train_loader(cfg)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        build_train_loader(cfg)


def test_unknown_dataset_lists_near_names():
    with pytest.raises(ValueError, match="'digit_train' is not registered; .*digits_train"):
        get_detection_dicts("digit_train", keep_difficult=True)
    with pytest.raises(ValueError, match="no registered name is near"):
        get_detection_dicts("", keep_difficult=True)


def test_datasets_of_other_kinds_come_from_the_catalog():
    record = {"image_id": 1, "annotations": []}
    DatasetCatalog.register("listed", lambda: [record])
    assert get_detection_dicts("listed", keep_difficult=False) == [record]
    DatasetCatalog.remove("listed")


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order(cfg, workers):
    cfg.TEST.BATCH_SIZE = 4
    cfg.DATALOADER.NUM_WORKERS = workers
    found = list(build_test_loader(cfg, "pets"))
    assert ids(found) == list(IMAGES)
    assert [len(batch) for batch in found] == [4, 4, 2]


def test_labels_cannot_change_test_inputs(cfg, voc_dataset):
    before = sum(build_test_loader(cfg, "pets"), [])
    moved = {k: [((0, 0, 9, 9), "owl", 1)] for k in IMAGES}
    after = sum(build_test_loader(cfg, voc_dataset(moved)), [])
    for a, b in zip(before, after, strict=True):
        assert set(a) == set(b) == {"file_name", "image_id", "height", "width", "image"}
        assert torch.equal(a["image"], b["image"])


def test_digits_are_registered(cfg, tmp_path):
    make_digits(tmp_path / "digits", num_train=4, num_test=2, image_size=48)
    old = MetadataCatalog.get("digits_train").dirname
    register_digits(tmp_path)
    cfg.DATASETS.TRAIN = ("digits_train",)
    assert sorted(ids(batches(cfg, 1))) == [f"train_{i:06d}" for i in range(4)]
    meta = MetadataCatalog.get("digits_test")
    assert meta.thing_classes == list("0123456789") and meta.year == 2007
    assert len(get_detection_dicts("digits_test", keep_difficult=False)) == 2
    register_digits(old.removesuffix("digits"))
