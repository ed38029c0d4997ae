"""Layouts that are recognized, and the errors for others."""

import os

import pytest

from flowdet.data.custom.formats.coco import COCOSource
from flowdet.data.custom.formats.voc import VOCSource
from flowdet.data.custom.layout import find_layout
from flowdet.data.custom.splits import ALL, split_of
from tests.data.custom.example_datasets import coco_file, write_coco


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def test_coco_layout(root):
    layout = find_layout(root)
    assert (layout.format.name, list(layout.splits)) == ("COCO", ["train", "val"])
    assert layout.splits["val"] == COCOSource(
        coco_file(root, "val"), (root / "val", root), root, "val"
    )


def test_voc_layout(voc_folder):
    voc_folder({"a": []}, split="trainval")
    root = voc_folder({"b": []}, split="test")
    (root / "labels.txt").write_text("cat\n")
    layout = find_layout(root)
    assert layout.format.name == "VOC"
    folders, classes = ((root / "Annotations",), (root / "JPEGImages",)), root / "labels.txt"
    assert layout.splits == {
        "train": VOCSource(*folders, root / "ImageSets/Main/trainval.txt", classes),
        "test": VOCSource(*folders, root / "ImageSets/Main/test.txt", classes),
    }


def test_missing_folder_names_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no folder pets .--data.*relative to {tmp_path}"):
        find_layout(tmp_path.joinpath("pets").relative_to(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DATASETS.PATH\)$"):
        find_layout(tmp_path / "pets")


def test_folder_without_dataset_lists_the_accepted_layouts(tmp_path):
    for name in ("photos", "texts"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="no dataset, but photos, texts. The formats .*VOC, COCO"):
        find_layout(tmp_path)
    with pytest.raises(ValueError, match="contains no dataset, but nothing"):
        find_layout(tmp_path / "photos")
    (tmp_path / "train.tfrecord").touch()
    with pytest.raises(ValueError, match="does not read TFRecord files: export the dataset as"):
        find_layout(tmp_path)


def test_dataset_without_training_split(root):
    coco_file(root).unlink()
    message = "lacks a split: train; it has: .*json. The layout of COCO: annotations/"
    with pytest.raises(FileNotFoundError, match=message):
        find_layout(root)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("boxes.json", "The nearest layout is that of COCO: annotations/.*json"),
        ("sub/boxes.txt", "The nearest layout is that of YOLO: data.yaml"),
        ("a.png", "It has images, but no annotations. The formats"),
    ],
)
def test_an_unknown_layout_names_the_nearest_one(tmp_path, file, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "readme.md").touch()
    (tmp_path / file).write_text("{}" if file.endswith("json") else "some text")
    with pytest.raises(ValueError, match=message):
        find_layout(tmp_path)


def test_a_list_of_test_images_does_not_hide_the_dataset(voc_folder):
    root = voc_folder({"a": []}, folder="repository/BCCD")
    (root / "ImageSets/Main/val.txt").write_text("a")
    row = "filename,cell_type,xmin,xmax,ymin,ymax\na.jpg,RBC,1,9,1,9\n"
    (root.parent / "test.csv").write_text(row)
    assert find_layout(root.parent).format.name == "VOC"


def test_a_folder_around_the_dataset_is_passed_over(root):
    inner = root.parent / "outer" / "export v2"
    inner.parent.mkdir()
    root.rename(inner)
    assert find_layout(inner.parent).splits["train"].path == coco_file(inner)


@pytest.mark.parametrize("folders", [("images", "annots"), ("photos", "boxes"), ("all", "all")])
def test_voc_files_without_splits_under_any_names(voc_folder, folders):
    root = voc_folder({"a": [], "b": []})
    (root / "ImageSets/Main/train.txt").unlink()
    for old, new in zip(("JPEGImages", "Annotations"), folders):
        (root / new).mkdir(exist_ok=True)
        for file in (root / old).iterdir():
            file.rename(root / new / file.name)
    layout = find_layout(root)
    images, annotations = ((root / name,) for name in folders)
    assert layout.splits == {ALL: VOCSource(annotations, images)}


def test_two_formats_in_one_folder_need_a_key(root):
    (root / "boxes").mkdir()
    coco_file(root).rename(root / "boxes" / "a.json")
    coco_file(root, "val").unlink()
    (root / "boxes" / "a.xml").write_text("<annotation></annotation>")
    with pytest.raises(ValueError, match="as VOC .*boxes. and COCO .*set DATASETS.FORMAT to VOC"):
        find_layout(root)
    assert find_layout(root, "COCO").splits[ALL].path == root / "boxes" / "a.json"
    with pytest.raises(ValueError, match="unknown DATASETS.FORMAT 'coco': use one of"):
        find_layout(root, "coco")


def test_two_formats_under_their_usual_names_need_a_key(root, voc_folder):
    other = voc_folder({"a": []})
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        (other / name).rename(root / name)
    with pytest.raises(ValueError, match="can be read as VOC .* and COCO .*FORMAT to VOC or COCO"):
        find_layout(root)
    assert find_layout(root, "VOC").format.name == "VOC"


def test_voc_annotations_of_no_split_next_to_splits(tmp_path):
    for folder in ("train", "val", "extra"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.xml").write_text("<annotation></annotation>")
        (tmp_path / folder / "a.png").touch()
    with pytest.raises(ValueError, match="extra has VOC annotations, but belongs to no split"):
        find_layout(tmp_path)


def test_two_json_files_for_a_split(root):
    for name in ("train_a.json", "train_b.json"):
        coco_file(root).with_name(name).write_text('{"images": []}')
    assert find_layout(root).splits["train"].path == coco_file(root)
    coco_file(root).unlink()
    with pytest.raises(ValueError, match="several .json files for train: train_a.json, train_b"):
        find_layout(root)


def test_voc_annotations_without_images(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation></annotation>")
    with pytest.raises(FileNotFoundError, match="has VOC annotations .* but there is no image"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [("train2017", "train"), ("Validation", "val"), ("images_test", "test"), ("trainval", "train")]
    + [("valid", "val"), ("train_val", None), ("photos", None), ("instances_Train", "train")]
    + [("retrain", None), ("contest", None)],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["photos/b.jpg", "annotations/instances_val.json"])
def test_a_pipe_is_not_waited_for(root, name):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{path.name} cannot be read: it is a pipe or a device"):
        find_layout(root)


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "annotations":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="annotations"):
        find_layout(root)
