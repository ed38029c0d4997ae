"""Reads, checks and evaluates small datasets of every kind that people have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageOps

from flowdet.config import add_flowdet_config
from flowdet.data.custom import register_custom
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.dataset import CustomDataset
from flowdet.evaluation.detection import build_evaluator
from tests.cases.all_cases import CASES
from tests.cases.case import COLORS, READS, REPAIRED, STOPS

# a training reports these when it opens the images
WHEN_OPENED = "unreadable image|another size|EXIF"


@pytest.fixture(scope="module")
def cfg():
    cfg = get_cfg()
    add_flowdet_config(cfg)
    return cfg


@pytest.mark.parametrize("name", CASES)
def test_dataset(name, tmp_path, cfg):
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
    assert set(check.class_names) == set(case.classes or case.names)
    assert_content(case, check.records, check.class_names)
    if not name.startswith("exif_"):
        assert_boxes_are_on_objects(case, check)
    assert_perfect_detections_have_ap_100(folder, cfg)


def checked(folder: Path):
    """Checks a dataset as tools/check_data.py; returns outcome, check (or None) and messages."""
    try:
        check = check_dataset(folder)
    except (FileNotFoundError, ValueError) as error:
        return STOPS, None, [str(error)]
    if check.problems:
        return STOPS, check, [f"{p.kind}: {p}" for p in check.problems]
    told = [f"{r.kind}: {r}" for r in check.repairs] + list(check.remarks)
    return (REPAIRED if check.repairs else READS), check, told


def assert_told(case, outcome, check, told):
    for text in told:
        assert "\n" not in text and "Traceback" not in text, text
    # what may stop and is read exactly as it is meant need not be told
    if outcome == STOPS or STOPS not in case.outcomes or case.content == {}:
        assert any(re.search(case.message, text) for text in told or [""]), told


def read_all(dataset) -> dict[str, list[dict]]:
    return {split: dataset.read(split).records for split in dataset.layout.splits}


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
        # nothing is left
        assert "\n" not in str(error) and case.content == {}, error
        return
    if case.content != {}:
        assert_content(case, records, dataset.class_names)


def assert_content(case, records, names):
    """Compares class and box of every object, image by image."""
    if case.content == {}:
        return
    actual = {split: objects_of(part, names) for split, part in records.items()}
    if not case.is_divided:
        assert all(actual.values()), "a split is empty"
        files = [r["file_name"] for part in records.values() for r in part]
        assert len(set(files)) == len(files), "an image is in two splits"
        actual = {"all": sorted(image for images in actual.values() for image in images)}
    assert actual == case.expected_images()


def objects_of(records, names):
    """[class name, *box] of the objects of each image, sorted; without difficult ones, crowds."""
    return sorted(
        sorted(
            [names[a["category_id"]], *(float(f"{x:.4f}") for x in a["bbox"])]
            for a in record["annotations"]
            if not a.get("iscrowd") and not a.get("difficult")
        )
        for record in records
    )


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


def assert_perfect_detections_have_ap_100(folder, cfg):
    """Detections that equal the ground truth of the evaluation split have AP 100."""
    names = register_custom(folder)
    name = names.get("val") or names["test"]
    records = DatasetCatalog.get(name)
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    for record in records:
        counted = [
            a for a in record["annotations"] if not a.get("iscrowd") and not a.get("difficult")
        ]
        evaluator.process([record], [{"instances": detections(record, counted)}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] == pytest.approx(100)


def detections(record, annotations):
    instances = Instances((record["height"], record["width"]))
    boxes = [a["bbox"] for a in annotations]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations]).long()
    instances.scores = torch.full((len(annotations),), 0.9)
    return instances
