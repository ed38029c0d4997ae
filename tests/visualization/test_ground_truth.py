"""The sheet of annotated images."""

import numpy as np
import pytest

from flowdet.visualization.ground_truth import ground_truth_sheet
from tests.data.custom.example_datasets import read_all, write_coco


@pytest.fixture
def records(tmp_path):
    return read_all(write_coco(tmp_path / "pets"))


def colored_pixels(sheet):
    """Counts the pixels of boxes and labels; the images are gray."""
    return (np.ptp(np.asarray(sheet).astype(int), axis=2) > 100).sum()


def test_sheet_has_the_boxes(records):
    sheet = ground_truth_sheet(records, ["cat", "dog"], 3)
    assert sheet.width > 2 * 320
    assert colored_pixels(sheet) > 1000
    bare = {split: [{**r, "annotations": []} for r in rs] for split, rs in records.items()}
    assert colored_pixels(ground_truth_sheet(bare, ["cat", "dog"], 3)) == 0


def test_images_that_do_not_fit_on_a_sheet_are_an_error(records, monkeypatch):
    monkeypatch.setattr("flowdet.visualization.drawing.MAX_TILES", 2)
    with pytest.raises(ValueError, match="4 tiles"):
        ground_truth_sheet(records, ["cat", "dog"], 3)
