"""Detections that equal the ground truth have AP 100, for boxes of every size in every format."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases.case import HEIGHT, WIDTH, Case
from tests.cases.checks import assert_perfect_detections_have_ap_100, checked, objects_of
from tests.cases.coco_writer import write_coco
from tests.cases.tool_cases import write_csv_splits, write_cvat, write_labelme
from tests.cases.voc_writer import pairs, write_voc
from tests.cases.yolo_cases import write_yolo

WRITERS = {
    "coco": write_coco,
    "voc": write_voc,
    "voc pairs": pairs(),
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": lambda folder, content: write_cvat(folder, divided=True, content=content),
    "csv": write_csv_splits,
}


def random_content(rng, size):
    """Two images in each split, each with one object of each class at a random place."""
    content = {}
    for split in ("train", "val"):
        content[split] = {}
        for number in range(2):
            sides = np.clip(rng.uniform(0.7, 1.3, (2, 2)) * size, 0.5, (WIDTH - 2, HEIGHT - 2))
            corners = rng.uniform(0.5, (WIDTH - 1, HEIGHT - 1) - sides)
            # CVAT writes 2 digits
            boxes = np.round(np.hstack([corners, corners + sides]), 2).tolist()
            content[split][f"{split}_{number}"] = [(i, tuple(box)) for i, box in enumerate(boxes)]
    return content


@pytest.mark.parametrize("size", [1.5, 3.5, 8, 20, 40])
@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_are_read_and_evaluated_exactly(kind, size, tmp_path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    content = random_content(np.random.default_rng(int(size)), size)
    WRITERS[kind](folder, content=content)
    _, check, told = checked(folder)
    assert check is not None and not check.problems and not check.repairs, told
    expected = Case(WRITERS[kind], content=content).expected_images()
    for split, images in expected.items():
        actual = objects_of(check.records[split], check.class_names)
        for image, target in zip(actual, images, strict=True):
            assert [name for name, *_ in image] == [name for name, *_ in target]
            boxes = [box for _, *box in image], [box for _, *box in target]
            np.testing.assert_allclose(*boxes, atol=0.001)
    assert_perfect_detections_have_ap_100(folder)
