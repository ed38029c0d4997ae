"""Layouts that are recognized, and the errors for others."""

import pytest

from flowdet.data.custom.layout import COCOSplit, VOCSplit, find_layout
from tests.data.custom.example_datasets import coco_file, write_coco


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def test_coco_layout(root):
    layout = find_layout(root)
    assert (layout.kind, list(layout.splits), layout.class_file) == ("coco", ["train", "val"], None)
    assert layout.splits["val"] == COCOSplit(coco_file(root, "val"), (root / "val", root))


def test_voc_layout(voc_folder):
    voc_folder({"a": []}, split="trainval")
    root = voc_folder({"b": []}, split="test")
    (root / "labels.txt").write_text("cat\n")
    layout = find_layout(root)
    assert (layout.kind, layout.class_file) == ("pascal_voc", root / "labels.txt")
    folders = ((root / "Annotations",), (root / "JPEGImages",))
    assert layout.splits == {
        "train": VOCSplit(*folders, root / "ImageSets/Main/trainval.txt"),
        "test": VOCSplit(*folders, root / "ImageSets/Main/test.txt"),
    }


def test_missing_folder_names_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no folder pets .--data.*relative to {tmp_path}"):
        find_layout(tmp_path.joinpath("pets").relative_to(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DATASETS.PATH\)$"):
        find_layout(tmp_path / "pets")


def test_folder_without_dataset_lists_the_accepted_layouts(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="contains no dataset, but photos. Accepted .*VOC.*COCO"):
        find_layout(tmp_path)
    with pytest.raises(ValueError, match="contains no dataset, but nothing"):
        find_layout(tmp_path / "photos")


@pytest.mark.parametrize(
    ("split", "message"), [("train", "lacks a split: train"), ("val", r"a split: val \(or test\)")]
)
def test_missing_split(root, split, message):
    coco_file(root, split).unlink()
    with pytest.raises(FileNotFoundError, match=f"{message}; it has: .*json. Accepted"):
        find_layout(root)


def test_two_json_files_for_a_split(root):
    for name in ("train_a.json", "train_b.json"):
        coco_file(root).with_name(name).write_text("{}")
    assert find_layout(root).splits["train"].json_file == coco_file(root)
    coco_file(root).unlink()
    with pytest.raises(ValueError, match="several .json files for train: train_a.json, train_b"):
        find_layout(root)


def test_voc_layout_without_images(tmp_path):
    for name in ("ImageSets/Main", "Annotations"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="but no .*JPEGImages: VOC layout needs both"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([], ["b.xml"], "train contains no annotations: neither"),
        (["a.json", "b.json"], ["b.xml"], "train contains several .json files .a.json, b.json"),
        (["a.json", "a.xml"], ["b.xml"], "train contains .json and .xml files: give either"),
        (["a.json"], ["b.xml"], "some splits have a COCO .json file, others VOC .xml files"),
    ],
)
def test_ambiguous_folder_per_split(tmp_path, train, val, message):
    for split, names in (("train", train), ("val", val)):
        (tmp_path / split).mkdir()
        for name in names:
            (tmp_path / split / name).touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_layout(tmp_path)
