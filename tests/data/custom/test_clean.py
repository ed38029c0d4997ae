"""The repaired copy of a dataset is read without problems and repairs, with the same boxes."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.clean import write_clean
from flowdet.data.detection.voc import write_voc_annotation
from tests.data.custom.example_datasets import load_coco, save_coco, write_coco


def boxes_of(checked):
    return {
        split: sorted(
            [(a["category_id"], *np.round(a["bbox"], 6)) for a in record["annotations"]]
            for record in records
        )
        for split, records in checked.records.items()
    }


def assert_clean(checked, copy):
    assert copy.problems == copy.repairs == []
    assert copy.format == checked.format and copy.class_names == checked.class_names
    assert boxes_of(copy) == boxes_of(checked)


def test_coco_dataset_with_problems_and_repairs(tmp_path):
    root = write_coco(tmp_path / "pets")
    data = load_coco(root)
    data["annotations"][0]["bbox"] = [-3, 3, 30, 30]
    data["annotations"][1]["bbox"] = [1, 2, 3]
    data["images"][1] |= {"file_name": r"C:\pets\B.PNG", "width": None}
    save_coco(root, data)
    checked = check_dataset(root)
    assert len(checked.problems) == 1 and len(checked.repairs) == 3
    write_clean(checked, root, tmp_path / "clean")
    copy = check_dataset(tmp_path / "clean")
    assert_clean(checked, copy)
    assert copy.classes.ids == [2, 5]


@pytest.mark.parametrize("seed", range(3))
def test_voc_dataset_with_fractional_corners(voc_folder, tmp_path, seed):
    rng = np.random.default_rng(seed)
    voc_folder({"a": [], "b": []}, split="train")
    root = voc_folder({"c": []}, split="val")
    for name in "abc":
        starts = rng.uniform(0, 20, (5, 2))
        boxes = np.concatenate([starts, starts + rng.uniform(0.5, 20, (5, 2))], axis=1)
        names, difficult = rng.choice(["cat", "dog"], 5).tolist(), rng.integers(0, 2, 5).tolist()
        path = root / "Annotations" / f"{name}.xml"
        write_voc_annotation(path, f"{name}.jpg", (48, 64), boxes, names, difficult)
    checked = check_dataset(root)
    write_clean(checked, root, tmp_path / "clean")
    copy = check_dataset(tmp_path / "clean")
    assert_clean(checked, copy)
    for record, other in zip(checked.records["train"], copy.records["train"], strict=True):
        flags = [a["difficult"] for a in record["annotations"]]
        assert flags == [a["difficult"] for a in other["annotations"]]


def test_images_of_one_name_keep_their_folders_and_their_pixels(tmp_path, monkeypatch):
    root = write_coco(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        data = load_coco(root, split)
        old = root / split / data["images"][0]["file_name"]
        Image.new("RGB", (64, 48), "red" if split == "train" else "blue").save(old)
        old.rename(old.with_name("0.png"))
        # absolute, although the folder of the dataset is given relative to the working directory
        data["images"][0]["file_name"] = str(old.with_name("0.png"))
        save_coco(root, data, split)
    checked = check_dataset("pets")
    write_clean(checked, Path("pets"), tmp_path / "clean")
    copy = check_dataset(tmp_path / "clean")
    assert_clean(checked, copy)
    first = copy.records["train"][0]["file_name"]
    assert Image.open(first).getpixel((0, 0)) == (255, 0, 0)


def test_a_test_split_without_annotations_stays_without(voc_folder, tmp_path):
    voc_folder({"a": [((2, 3, 30, 33), "cat", 0)]}, split="train")
    voc_folder({"b": [((2, 3, 30, 33), "cat", 0)]}, split="val")
    root = voc_folder({"c": []}, split="test")
    (root / "Annotations" / "c.xml").unlink()
    checked = check_dataset(root)
    assert checked.problems == [] and checked.annotated == {"train", "val"}
    write_clean(checked, root, tmp_path / "clean")
    copy = check_dataset(tmp_path / "clean")
    assert_clean(checked, copy)
    assert copy.annotated == {"train", "val"} and len(copy.records["test"]) == 1


def test_nothing_is_overwritten_and_nothing_is_written_of_nothing(tmp_path):
    root = write_coco(tmp_path / "pets")
    checked = check_dataset(root)
    (tmp_path / "old").mkdir()
    with pytest.raises(FileExistsError, match="old exists: remove it"):
        write_clean(checked, root, tmp_path / "old")
    shutil.rmtree(root / "train")
    with pytest.raises(ValueError, match="no usable training image"):
        write_clean(check_dataset(root), root, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_stop_or_a_full_disk_leaves_no_part(tmp_path, monkeypatch, error):
    """Its folder would look like a dataset."""
    root = write_coco(tmp_path / "pets")
    copy, copied = shutil.copyfile, []

    def stop_at_second(source, target):
        if copied:
            error.filename2 = str(target)
            raise error
        copied.append(copy(source, target))

    monkeypatch.setattr(shutil, "copyfile", stop_at_second)
    with pytest.raises(type(error)) as caught:
        write_clean(check_dataset(root), root, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"] and copied
    if isinstance(error, OSError):
        assert caught.value.filename.startswith(str(tmp_path / "clean" / "images"))
