"""Registration of the digits dataset, and of datasets in VOC layout by name."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.detection.builtin import datasets_root, register_digits, register_voc
from flowdet.data.detection.loaders import get_detection_dicts


@pytest.fixture
def root(tmp_path):
    """An empty folder, registered as the folder of the digits."""
    register_digits(tmp_path)
    yield tmp_path
    register_digits(datasets_root())


def test_root_is_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert datasets_root() == tmp_path
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert str(datasets_root()) == "datasets"


def test_digits_are_registered(root, voc_folder):
    for split, ids in (("train", "ab"), ("test", "c")):
        images = {i: [((2, 3, 30, 33), "7", 0)] for i in ids}
        assert voc_folder(images, split=split, folder="digits") == root / "digits"
        records = get_detection_dicts(f"digits_{split}", keep_difficult=False)
        assert [r["image_id"] for r in records] == list(ids)
        assert records[0]["annotations"][0]["category_id"] == 7
    meta = MetadataCatalog.get("digits_test")
    assert meta.thing_classes == list("0123456789") and meta.year == 2007


def test_registering_a_name_again_replaces_the_dataset(voc_folder):
    register_voc("pets", voc_folder({"a": []}, folder="old"), "train", ["cat"])
    register_voc("pets", voc_folder({"b": []}, folder="new"), "train", ["dog"], year=2012)
    assert [r["image_id"] for r in DatasetCatalog.get("pets")] == ["b"]
    meta = MetadataCatalog.get("pets")
    assert (meta.thing_classes, meta.year) == (["dog"], 2012)


def test_impossible_year_is_an_error():
    with pytest.raises(ValueError, match="dataset 'pets': year is 2010; it must be 2007 or 2012"):
        register_voc("pets", "pets", "train", ["cat"], year=2010)
