"""Boxes never get onto the image of another split, camera or version without a finding."""

import shutil

import numpy as np
import pytest

from flowdet.data.custom import CustomDataset
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.clean import write_clean
from flowdet.data.detection.voc import write_voc_annotation
from tests.data.custom.example_datasets import (
    CAT,
    DOG,
    TRAIN,
    VAL,
    coco_file,
    load_coco,
    save_coco,
    write_coco,
    write_image,
)


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def kinds_of(root):
    return [problem.kind for problem in check_dataset(root).problems]


def files_of(records):
    return [record["file_name"].rpartition("pets/")[2] for record in records]


def rename_images(root, split):
    """Gives the images of a split the names 1.png, 2.png."""
    data = load_coco(root, split)
    for number, image in enumerate(data["images"], 1):
        (root / split / image["file_name"]).rename(root / split / f"{number}.png")
        image["file_name"] = f"{number}.png"
    save_coco(root, data, split)


@pytest.mark.parametrize("lost", [["2.png"], ["1.png", "2.png"]])
@pytest.mark.parametrize("is_roboflow", [True, False])
def test_lost_images_of_val_are_not_those_of_train(root, lost, is_roboflow):
    for split in ("train", "val"):
        rename_images(root, split)
        if is_roboflow:
            coco_file(root, split).rename(root / split / "_annotations.coco.json")
    for name in lost:
        (root / "val" / name).unlink()
    checked = check_dataset(root)
    assert [p.kind for p in checked.problems] == ["missing image"] * len(lost)
    assert all("val" in name for name in files_of(checked.records["val"]))


def test_a_folder_of_masks_does_not_replace_the_images(root):
    shutil.copytree(root / "train", root / "train_masks")
    (root / "train" / "b.png").unlink()
    checked = check_dataset(root)
    assert [p.kind for p in checked.problems] == ["missing image"]
    assert files_of(checked.records["train"]) == ["train/a.png"]


def test_an_image_of_another_camera_does_not_replace_a_lost_one(root):
    data = load_coco(root)
    for camera in ("cam1", "cam2"):
        (root / "train" / camera).mkdir()
        write_image(root / "train" / camera / "0.png")
    (root / "train" / "a.png").rename(root / "train" / "cam2" / "1.png")
    data["images"][0]["file_name"] = "cam1/1.png"
    save_coco(root, data)
    assert kinds_of(root) == ["missing image"]


def test_splits_in_two_places_and_under_other_names(root):
    coco_file(root, "val").rename(root / "instances_minival2017.json")
    assert CustomDataset(root).layout.splits.keys() == {"train", "val"}


@pytest.mark.parametrize("unit", ["coco", "voc"])
def test_fractions_of_the_image_are_not_pixels(root, voc_folder, unit):
    if unit == "coco":
        data = load_coco(root)
        for annotation in data["annotations"]:
            annotation["bbox"] = [0.1, 0.2, 0.5, 0.6]
        save_coco(root, data)
    else:
        voc_folder(TRAIN, split="train")
        root = voc_folder(VAL, split="val")
        for name in "ab":
            path = root / "Annotations" / f"{name}.xml"
            box = np.array([[-0.9, -0.8, 0.5, 0.6]])
            write_voc_annotation(path, f"{name}.jpg", (48, 64), box, ["cat"])
    with pytest.raises(ValueError, match="have corners from 0 to 1, which are fractions"):
        CustomDataset(root, "skip").read("train")


def test_two_voc_datasets_in_one_folder(voc_folder):
    for year in ("VOC2007", "VOC2012"):
        voc_folder(TRAIN, split="train", folder=f"devkit/{year}")
        root = voc_folder(VAL, split="val", folder=f"devkit/{year}")
    with pytest.raises(ValueError, match="several lists for train: .*2007.*, .*2012"):
        check_dataset(root.parent)
    layout = root / "ImageSets" / "Layout"
    layout.mkdir()
    (layout / "train.txt").write_text("a\n")
    shutil.rmtree(root.parent / "VOC2007")
    (root / "JPEGImages").rename(root / "Images")
    assert len(check_dataset(root).records["train"]) == 2


def test_two_annotations_of_one_image(voc_folder):
    source = voc_folder({"cam1": [CAT], "cam2": [DOG]})
    root = source.parent / "cameras"
    for camera in ("cam1", "cam2"):
        target = root / camera / "ann" / "1.xml"
        target.parent.mkdir(parents=True)
        (source / "Annotations" / f"{camera}.xml").rename(target)
    image = root / "cam1" / "img" / "1.jpg"
    image.parent.mkdir()
    (source / "JPEGImages" / "cam1.jpg").rename(image)
    assert "two annotations of one image" in kinds_of(root)
    assert check_dataset(root).records["train"] == []


def test_a_file_name_that_is_another_image_is_told(voc_folder):
    voc_folder(TRAIN, split="train")
    root = voc_folder(VAL, split="val")
    path = root / "Annotations" / "b.xml"
    path.write_text(path.read_text().replace("b.jpg", "a.jpg"))
    (repair,) = check_dataset(root).repairs
    assert repair.kind == "file name differs" and repair.where == str(path)


def test_nested_objects_and_second_boxes_of_voc_files(voc_folder):
    voc_folder(TRAIN, split="train")
    root = voc_folder(VAL, split="val")
    nested, double = (root / "Annotations" / f"{name}.xml" for name in "ab")
    text = nested.read_text().replace("<object>", "<objects><object>", 1)
    nested.write_text(text.replace("</annotation>", "</objects></annotation>"))
    text = double.read_text()
    box = text[text.index("<bndbox>") : text.index("</bndbox>") + len("</bndbox>")]
    double.write_text(text.replace(box, box + box, 1))
    checked = check_dataset(root)
    assert [len(record["annotations"]) for record in checked.records["train"]] == [2, 1]
    assert "more than one <bndbox>" in checked.problems[0].text


def test_a_clean_voc_copy_of_an_image_in_two_splits(voc_folder, tmp_path):
    voc_folder(TRAIN, split="train")
    root = voc_folder({"a": TRAIN["a"]}, split="val")
    checked = check_dataset(root)
    write_clean(checked, root, tmp_path / "clean")
    assert check_dataset(tmp_path / "clean").problems == []
    checked.records["val"][0]["annotations"] = []
    with pytest.raises(ValueError, match="a.jpg is in two splits .* with different objects"):
        write_clean(checked, root, tmp_path / "other")


def test_images_of_two_splits_do_not_share_a_label_file(tmp_path):
    root = tmp_path / "yolo"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for name in ("1.jpg", "1.png", "2.png", "3.png"):
        write_image(root / "images" / name)
        (root / "labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "train.txt").write_text("images/1.jpg\nimages/2.png\n")
    (root / "val.txt").write_text("images/1.png\nimages/3.png\n")
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat]\n")
    checked = check_dataset(root)
    (problem,) = checked.problems
    assert problem.kind == "two files of one name" and problem.where.endswith("labels/1.txt")
    assert len(checked.records["val"]) == 1
