"""Reads, checks and evaluates a dataset, for the tests of the cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from flowdet.config import add_flowdet_config
from flowdet.data.custom import register_custom
from flowdet.data.custom.check import check_dataset
from flowdet.data.custom.dataset import CustomDataset
from flowdet.evaluation.detection import build_evaluator
from tests.cases.case import READS, REPAIRED, STOPS


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


def read_all(dataset) -> dict[str, list[dict]]:
    return {split: dataset.read(split).records for split in dataset.splits}


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


def assert_perfect_detections_have_ap_100(folder):
    """Detections that equal the ground truth of the evaluation split have AP 100."""
    cfg = get_cfg()
    add_flowdet_config(cfg)
    names = register_custom(folder)
    name = names[CustomDataset(folder).evaluated_split]
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
