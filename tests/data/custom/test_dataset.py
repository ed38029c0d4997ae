"""CustomDataset and its registration: names, metadata, what is read when."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.custom import CustomDataset, register_custom
from tests.data.custom.example_datasets import TRAIN, VAL, load_coco, save_coco, write_coco


@pytest.fixture
def voc(voc_folder):
    voc_folder(TRAIN, split="train")
    return voc_folder(VAL, split="val")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "pets")


def test_metadata_of_voc(voc):
    names = register_custom(voc)
    assert names == {split: f"custom_voc_{split}" for split in ("train", "val", "test")}
    DatasetCatalog.get("custom_voc_val")
    meta = MetadataCatalog.get("custom_voc_val")
    assert (meta.evaluator_type, meta.year, meta.thing_classes) == (
        "pascal_voc",
        2012,
        ["cat", "dog"],
    )


def test_metadata_of_coco(coco):
    register_custom(coco)
    records = DatasetCatalog.get("custom_pets_val")
    meta = MetadataCatalog.get("custom_pets_val")
    assert (meta.evaluator_type, meta.thing_classes) == ("coco", ["cat", "dog"])
    assert meta.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1}
    # a copy for the evaluation, with the ids of the dataset
    images = json.loads(Path(meta.json_file).read_text())["images"]
    assert [image["id"] for image in images] == [r["image_id"] for r in records]
    assert meta.evaluation_image_ids is None


def test_evaluator_reads_a_completed_copy_of_an_incomplete_json_file(coco):
    data = load_coco(coco, "val")
    for annotation in data["annotations"]:
        del annotation["area"]
    save_coco(coco, data, "val")
    register_custom(coco)
    DatasetCatalog.get("custom_pets_val")
    copy = MetadataCatalog.get("custom_pets_val").json_file
    assert copy != str(coco / "annotations" / "instances_val.json")
    with open(copy) as file:
        assert '"area": 840' in file.read()
    assert load_coco(coco, "val") == data


def test_files_are_read_once_and_callers_cannot_change_the_dicts(voc, monkeypatch):
    register_custom(voc)
    DatasetCatalog.get("custom_voc_train")
    monkeypatch.setattr("flowdet.data.custom.formats.voc.VOC.read", None)
    DatasetCatalog.get("custom_voc_train")[0]["annotations"].clear()
    assert len(DatasetCatalog.get("custom_voc_train")[0]["annotations"]) == 2
    # registering the folder again reads it again
    monkeypatch.undo()
    (voc / "ImageSets/Main/train.txt").write_text("b\n")
    register_custom(voc)
    assert [r["image_id"] for r in DatasetCatalog.get("custom_voc_train")] == ["b"]


def test_missing_folder_is_registered_and_is_an_error_when_it_is_read(voc):
    shutil.rmtree(voc)
    names = register_custom(voc)
    assert names == {split: f"custom_voc_{split}" for split in ("train", "val", "test")}
    with pytest.raises(FileNotFoundError, match=f"no folder {voc} "):
        DatasetCatalog.get("custom_voc_train")


def test_two_folders_of_one_name_are_an_error(coco, tmp_path):
    register_custom(coco)
    with pytest.raises(ValueError, match="same dataset name 'custom_pets_train': rename one"):
        register_custom(write_coco(tmp_path / "more" / "pets"))


def test_missing_split_names_the_others(coco):
    with pytest.raises(FileNotFoundError, match="has no split 'test'; its splits are train, val"):
        CustomDataset(coco).read("test")
