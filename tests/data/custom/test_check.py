"""Checking a whole dataset: problems, remarks, images, and how problems are listed."""

import numpy as np
import pytest
from PIL import Image

from flowdet.data.custom.check import check_dataset
from tests.data.custom.example_datasets import (
    CAT,
    TRAIN,
    VAL,
    load_coco,
    save_coco,
    write_coco,
    write_image,
)


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def test_dataset_without_problems(root):
    checked = check_dataset(root)
    assert (checked.format, checked.class_names) == ("COCO", ["cat", "dog"])
    assert checked.problems == checked.remarks == []


def test_all_problems_are_listed(root):
    data = load_coco(root)
    data["annotations"][0]["bbox"] = [2, 3, 0, 30]
    data["annotations"][1]["category_id"] = 9
    save_coco(root, data)
    (root / "train" / "b.png").unlink()
    checked = check_dataset(root)
    assert [p.kind for p in checked.problems] == ["missing image", "unknown class"]
    assert [p.kind for p in checked.repairs] == ["box without area"]


def test_images_are_opened(root):
    write_image(root / "train" / "a.png", (64, 48))
    (root / "val" / "c.png").write_bytes((root / "val" / "c.png").read_bytes()[:60])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(root / "val" / "d.png", exif=exif)
    a, c, d = sorted(check_dataset(root).problems, key=lambda p: p.where)
    assert str(a).endswith("a.png: the annotated size is 64x48, the image is 48x64")
    assert c.kind == "unreadable image" and c.where.endswith("c.png")
    assert "the image is 48x64 after the rotation in its EXIF data: remove" in str(d)
    assert check_dataset(root, open_images=False).problems == []


def test_remarks_on_unused_images_absent_classes_and_shared_images(root, voc_folder):
    write_image(root / "train" / "spare.png")
    data = load_coco(root, "val")
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 2]
    save_coco(root, data, "val")
    unused, absent = check_dataset(root).remarks
    assert "1 images in" in unused and unused.endswith("train are in no split, e.g. spare.png")
    assert absent == "val has no object of dog"

    voc_folder(TRAIN, split="train")
    shared = voc_folder(VAL | {"a": [CAT]}, split="val")
    assert check_dataset(shared).remarks == ["1 images are in both train and val"]
