"""Previews of a classifier: captions, tiles and batches."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import nn

from flowdet.evaluation.classification_previews import (
    predict_probabilities,
    prediction_caption,
    preview_sheet,
    preview_tile,
)
from flowdet.visualization.drawing import TILE
from tests.flowcls.tiny import tiny_cfg

NAMES = ["cat", "dog", "owl"]


class BrightnessClassifier(nn.Module):
    """Class k for images of brightness 100 k; notes the batch sizes."""

    def __init__(self):
        super().__init__()
        self.batch_sizes = []

    def inference(self, inputs, all_modes):
        assert not all_modes and not any("label" in x for x in inputs)
        self.batch_sizes.append(len(inputs))
        brightness = [x["image"].float().mean() for x in inputs]
        return [{"logits": -(torch.arange(3) - b / 100).abs()[None] * 9} for b in brightness]


def record(label, brightness, size=(20, 10)):
    pixels = np.full((*size, 3), brightness, np.uint8)
    return {"image_id": f"{label}-{brightness}", "label": label, "image": pixels}


@pytest.fixture
def cfg():
    cfg = tiny_cfg("mnist_flow_cnn")
    cfg.MODEL.CLASS_NAMES, cfg.TEST.BATCH_SIZE = NAMES, 2
    return cfg


def test_probabilities_come_in_batches(cfg):
    model = BrightnessClassifier()
    records = [record(0, 200), record(0, 0), record(0, 100)]
    probabilities = predict_probabilities(cfg, model, records)
    assert probabilities.argmax(dim=1).tolist() == [2, 0, 1] and model.batch_sizes == [2, 1]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3), atol=1e-4, rtol=0)


def test_captions():
    probabilities = torch.tensor([0.31, 0.6, 0.09])
    assert prediction_caption({"label": 1}, probabilities, NAMES) == "dog 60%"
    assert prediction_caption({"label": 0}, probabilities, NAMES) == "dog 60%, true class cat 31%"


def test_tiles_have_half_the_usual_size():
    assert preview_tile(record(0, 9)).size == (TILE // 4, TILE // 2)
    assert preview_tile(record(0, 9, (600, 900))).size == (TILE // 2, round(TILE / 3))


def test_tiles_use_the_value_range(tmp_path):
    Image.new("I;16", (3, 3), 1600).save(tmp_path / "a.png")
    tile = preview_tile({"file_name": str(tmp_path / "a.png"), "image_id": 0}, [0, 4080])
    assert tile.getextrema() == ((100, 100),) * 3


def test_sheet_of_evenly_spaced_images(cfg):
    records = [record(0, 10 * i) for i in range(9)]
    DatasetCatalog.register("gray", lambda: records)
    MetadataCatalog.get("gray").set(thing_classes=NAMES, evaluator_type="classification")
    model = BrightnessClassifier()
    sheet = preview_sheet(cfg, model, "gray", 4)
    assert sum(model.batch_sizes) == 4
    # two rows of two tiles
    assert TILE < sheet.width < 1.5 * TILE and sheet.height > TILE
