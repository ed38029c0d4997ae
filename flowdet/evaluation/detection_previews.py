"""Previews of a detector: a sheet of test images with ground truth and detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.data.detection.mapper import FlowDatasetMapper
from flowdet.data.image_files import evenly_spaced_indices
from flowdet.evaluation.matching import SCORE_THRESHOLD, ground_truth_instances
from flowdet.terminal import terminal_bar
from flowdet.visualization.drawing import (
    DetectionVisualizer,
    DrawnBox,
    class_color,
    contact_sheet,
    draw_boxes,
    image_of,
)


def preview_sheet(cfg: CfgNode, model: nn.Module, dataset_name: str, count: int) -> Image.Image:
    """Draws a sheet of evenly spaced images of a dataset: ground truth left, detections right.

    Args:
        cfg: the resolved config.
        model: a detector, in training or evaluation mode.
        dataset_name: name of a registered detection dataset.
        count: the maximum number of images.
    """
    records = get_detection_dicts(dataset_name, keep_difficult=True)
    value_range = cfg.INPUT.VALUE_RANGE
    records = [
        {**records[i], "value_range": value_range}
        for i in evenly_spaced_indices(len(records), count)
    ]
    names = cfg.MODEL.CLASS_NAMES
    visualizer = DetectionVisualizer(names, SCORE_THRESHOLD)
    tiles, titles = [], []
    for record, detections in zip(records, predict_detections(cfg, model, records), strict=True):
        result = {**record, "instances": detections}
        tiles += [ground_truth_tile(record, names), visualizer.tile(result)]
        titles += [f"{record['image_id']}: ground truth", "detections"]
    return contact_sheet(tiles, titles, columns=min(4, len(tiles)))


def predict_detections(cfg: CfgNode, model: nn.Module, records: Sequence[dict]) -> list[Instances]:
    """Detects objects in the images of dataset dicts; returns the detections on the CPU. The model
    does not get the annotations."""
    mapper = FlowDatasetMapper(cfg, is_train=False)
    size, detections = cfg.TEST.BATCH_SIZE, []
    with inference_context(model), torch.no_grad():
        for first in terminal_bar(range(0, len(records), size), desc="detect", unit="batch"):
            inputs = [mapper(record) for record in records[first : first + size]]
            detections += [output["instances"].to("cpu") for output in model(inputs)]
    return detections


def ground_truth_tile(record: dict, class_names: Sequence[str]) -> Image.Image:
    """Draws the objects of a dataset dict. Dotted boxes are ignored by the evaluation."""
    ground_truth = ground_truth_instances(record)
    boxes = [
        DrawnBox(box, class_names[index], class_color(index), ":" if ignored else "-")
        for box, index, ignored in zip(
            ground_truth.gt_boxes.tensor.tolist(),
            ground_truth.gt_classes.tolist(),
            ground_truth.ignored.tolist(),
        )
    ]
    return draw_boxes(image_of(record), boxes)
