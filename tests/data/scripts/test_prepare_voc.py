"""datasets/prepare_voc.py: moving the unpacked files, incomplete and failed downloads."""

import shutil
from pathlib import Path

import pytest

from flowdet.data.detection.voc import load_voc_dicts
from tests.data.scripts.loading import load_script

IMAGES = {
    "one": [((0, 0, 64, 48), "dog", 0), ((3, 4, 20, 30), "cat", 1)],
    "two": [((5, 6, 7, 8), "cat", 1)],
    "three": [],
}


@pytest.fixture(scope="module")
def prepare_voc():
    return load_script("prepare_voc")


def test_files_are_moved_and_existing_ones_kept(voc_folder, prepare_voc, tmp_path):
    target = tmp_path / "VOC2007"
    (target / "Annotations").mkdir(parents=True)
    (target / "Annotations" / "one.xml").write_text("mine")
    source = voc_folder(IMAGES)
    assert not prepare_voc.is_complete(target, "train")
    assert prepare_voc.move_files(source, target) == 6
    assert prepare_voc.is_complete(target, "train")
    assert not prepare_voc.is_complete(target, "test")
    assert (target / "Annotations" / "one.xml").read_text() == "mine"


def test_failed_download_says_what_to_do(prepare_voc, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(prepare_voc, "VOCDetection", offline)
    with pytest.raises(
        RuntimeError, match="VOC 2007 test could not be down.*no route to host.*VOC2007 has the"
    ):
        prepare_voc.fetch(tmp_path, "2007", "test")
    assert not list(tmp_path.iterdir())


def test_unpacked_files_are_moved_and_checked(voc_folder, prepare_voc, tmp_path, monkeypatch):
    source = voc_folder(IMAGES, split="test")

    def unpack(root, year, image_set, download):
        shutil.copytree(source, Path(root) / "VOCdevkit" / f"VOC{year}")

    monkeypatch.setattr(prepare_voc, "VOCDetection", unpack)
    (tmp_path / "data").mkdir()
    prepare_voc.fetch(tmp_path / "data", "2007", "test")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["VOC2007"]
    records = load_voc_dicts(tmp_path / "data" / "VOC2007", "test", ["cat", "dog"], True)
    assert [r["image_id"] for r in records] == ["one", "two", "three"]
    with pytest.raises(RuntimeError, match="VOC2012 lacks files of split trainval"):
        prepare_voc.fetch(tmp_path / "data", "2012", "trainval")
