"""Previews of detections: the ground truth on the left, the detections on the right."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.detection_previews import (
    ground_truth_tile,
    predict_detections,
    preview_sheet,
)
from flowdet.visualization.drawing import TILE
from tests.detection.tiny import tiny_cfg

BOX = (10, 12, 40, 36)


class OneBox(nn.Module):
    """Detects `BOX` in every image, and notes what it was given."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, inputs):
        assert not self.training
        self.inputs.append(inputs)
        instances = Instances((48, 64), pred_boxes=Boxes(torch.tensor([BOX]).float()))
        instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([1])
        return [{"instances": instances} for _ in inputs]


@pytest.fixture
def cfg():
    cfg = tiny_cfg()
    cfg.MODEL.CLASS_NAMES = ["cat", "dog", "owl"]
    cfg.TEST.BATCH_SIZE = 2
    return cfg


@pytest.fixture
def pets(voc_dataset):
    return voc_dataset({name: [(BOX, "dog", int(name == "c"))] for name in "abc"})


def test_sheet_has_two_tiles_per_image(cfg, pets):
    model = OneBox().train()
    sheet = preview_sheet(cfg, model, pets, 2)
    # two images side by side, four tiles in a row
    assert 4 * TILE < sheet.width < 5 * TILE and sheet.height < 2 * TILE
    assert model.training
    (inputs,) = model.inputs
    assert len(inputs) == 2 and not any("annotations" in x or "instances" in x for x in inputs)


def test_sheet_uses_the_value_range(cfg, pets):
    expected = preview_sheet(cfg, OneBox(), pets, 2)
    for record in get_detection_dicts(pets, keep_difficult=True):
        path = record["file_name"]
        pixels = cv2.imread(path).astype(np.uint16) * 16
        # a PNG, whatever its suffix
        Path(path).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    cfg.INPUT.VALUE_RANGE = [0, 4080]
    assert np.array_equal(preview_sheet(cfg, OneBox(), pets, 2), expected)


def test_detections_come_in_batches(cfg, pets):
    model = OneBox()
    detections = predict_detections(cfg, model, get_detection_dicts(pets, keep_difficult=True))
    assert [len(inputs) for inputs in model.inputs] == [2, 1] and len(detections) == 3


def test_ignored_objects_are_dotted(cfg, pets):
    records = get_detection_dicts(pets, keep_difficult=True)
    black = np.zeros((48, 64, 3), np.uint8)
    tiles = [ground_truth_tile({**x, "pixels": black}, cfg.MODEL.CLASS_NAMES) for x in records]
    # a solid left edge covers all rows, a dotted one only some
    column = round(BOX[0] / 64 * TILE)
    rows = slice(round(20 / 64 * TILE), round(34 / 64 * TILE))
    drawn = [
        (np.asarray(tile)[rows, column - 2 : column + 3].max(axis=(1, 2)) > 60).mean()
        for tile in tiles
    ]
    assert drawn[0] == drawn[1] == 1 and 0.2 < drawn[2] < 0.9
