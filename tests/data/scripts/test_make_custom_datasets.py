"""datasets/make_custom_datasets.py: the same scenes in both formats, readable without problems."""

import pytest

from flowdet.data.custom.check import check_dataset
from tests.data.custom.example_datasets import boxes_of
from tests.data.scripts.loading import load_script, run_script


@pytest.fixture(scope="module")
def script():
    return load_script("make_custom_datasets")


def test_both_formats_have_the_same_boxes_and_classes(script, tmp_path, monkeypatch):
    words = ("--output", tmp_path, "--train", 3, "--val", 2, "--image-size", 48)
    run_script(script, monkeypatch, *words)
    voc, coco = check_dataset(tmp_path / "voc"), check_dataset(tmp_path / "coco")
    assert (voc.format, coco.format) == ("VOC", "COCO")
    assert voc.problems == coco.problems == []
    assert voc.class_names == coco.class_names == list(script.CLASS_NAMES)
    for split, count in (("train", 3), ("val", 2)):
        boxes = boxes_of(voc.records[split])
        assert boxes == boxes_of(coco.records[split])
        assert len(boxes) == count and all(objects for _, objects in boxes)
    with pytest.raises(SystemExit, match="voc exists: remove it, or give another --output"):
        run_script(script, monkeypatch, *words)
