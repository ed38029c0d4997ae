"""Which folders are taken for a dataset, and what is said of others."""

import pytest

from flowdet.data.custom.layout import find_layout
from tests.data.custom.small import json_path, write_coco


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "pets")


def test_missing_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no folder pets .--data.*seen from {tmp_path}"):
        find_layout(tmp_path.joinpath("pets").relative_to(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DATASETS.PATH\)$"):
        find_layout(tmp_path / "pets")


def test_any_folder_lists_what_was_looked_for(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="holds no dataset, but photos. Looked for .*VOC.*COCO"):
        find_layout(tmp_path)
    with pytest.raises(ValueError, match="holds no dataset, but nothing"):
        find_layout(tmp_path / "photos")


@pytest.mark.parametrize(
    ("split", "message"), [("train", "lacks a split: train"), ("val", r"a split: val \(or test\)")]
)
def test_a_split_is_missing(root, split, message):
    json_path(root, split).unlink()
    with pytest.raises(FileNotFoundError, match=f"{message}; found: .*json. Looked for"):
        find_layout(root)


def test_two_files_for_a_split(root):
    for name in ("train_a.json", "train_b.json"):
        json_path(root).with_name(name).write_text("{}")
    assert find_layout(root).splits["train"].json_file == json_path(root)
    json_path(root).unlink()
    with pytest.raises(ValueError, match="several .json files for train: train_a.json, train_b"):
        find_layout(root)


def test_voc_layout_without_images(tmp_path):
    for name in ("ImageSets/Main", "Annotations"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="but no .*JPEGImages, as VOC layout needs it"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([], ["b.xml"], "train holds no annotations: neither"),
        (["a.json", "b.json"], ["b.xml"], "train holds several .json files .a.json, b.json"),
        (["a.json", "a.xml"], ["b.xml"], "train holds .json and .xml files: give one"),
        (["a.json"], ["b.xml"], "some splits have a COCO .json file, others VOC .xml files"),
    ],
)
def test_a_folder_per_split_that_is_not_clear(tmp_path, train, val, message):
    for split, names in (("train", train), ("val", val)):
        (tmp_path / split).mkdir()
        for name in names:
            (tmp_path / split / name).touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_layout(tmp_path)
