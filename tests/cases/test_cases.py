"""Reads, checks and evaluates small datasets of every kind that people have."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowdet.data.custom.dataset import CustomDataset
from tests.cases.all_cases import CASES
from tests.cases.case import COLORS, STOPS
from tests.cases.checks import assert_perfect_detections_have_ap_100, checked, objects_of, read_all

# a training reports these when it opens the images
WHEN_OPENED = "unreadable image|another size|EXIF"


@pytest.mark.parametrize("name", CASES)
def test_dataset(name, tmp_path):
    case, folder = CASES[name], tmp_path / "shapes"
    folder.mkdir()
    case.write(folder)
    outcome, check, told = checked(folder)
    assert outcome in case.outcomes, told
    assert_told(case, outcome, check, told)
    if outcome == STOPS:
        if check is None or not re.search(WHEN_OPENED, "\n".join(told)):
            assert_training_stops(folder, case)
        assert_rest_is_read(folder, case)
        return
    if case.content != {}:
        assert set(check.class_names) == set(case.classes or case.names)
        assert_content(case, check.records, check.class_names)
        if not name.startswith("exif_"):
            assert_boxes_are_on_objects(case, check)
    assert_perfect_detections_have_ap_100(folder)


def assert_told(case, outcome, check, told):
    for text in told:
        assert "\n" not in text and "Traceback" not in text, text
    # what may stop and is read exactly as it is meant need not be told
    if outcome == STOPS or STOPS not in case.outcomes or case.content == {}:
        assert any(re.search(case.message, text) for text in told or [""]), told


def assert_training_stops(folder, case):
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        read_all(CustomDataset(folder))
    assert "\n" not in str(error.value)


def assert_rest_is_read(folder, case):
    """Without the unusable entries, the dataset can be used, unless nothing is left."""
    dataset = CustomDataset(folder, on_problem="skip")
    try:
        records = read_all(dataset)
    except (FileNotFoundError, ValueError) as error:
        # nothing is left, or it may not be readable
        assert "\n" not in str(error), error
        assert case.content == {} or len(case.outcomes) > 1, error
        return
    if case.content != {}:
        assert_content(case, records, dataset.class_names)


def assert_content(case, records, names):
    """Compares class and box of every object, image by image."""
    actual = {split: objects_of(part, names) for split, part in records.items()}
    if not case.is_divided:
        assert all(actual.values()), "a split is empty"
        files = [r["file_name"] for part in records.values() for r in part]
        assert len(set(files)) == len(files), "an image is in two splits"
        actual = {"all": sorted(image for images in actual.values() for image in images)}
    assert actual == case.expected_images()


def assert_boxes_are_on_objects(case, check):
    """The image has the color of the class in the center of every box."""
    for record in (record for part in check.records.values() for record in part):
        with Image.open(record["file_name"]) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
        assert pixels.shape[:2] == (record["height"], record["width"])
        for annotation in record["annotations"]:
            if annotation.get("iscrowd") or annotation.get("difficult"):
                continue
            name = check.class_names[annotation["category_id"]]
            colors = [c for c, n in zip(COLORS, case.names, strict=True) if n == name]
            x1, y1, x2, y2 = annotation["bbox"]
            pixel = pixels[int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert min(np.abs(pixel - color).max() for color in colors) < 40, record["file_name"]
