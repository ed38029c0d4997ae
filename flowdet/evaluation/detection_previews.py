"""Pictures of a few test images: their objects beside what a detector finds."""

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
from flowdet.data.image_files import evenly
from flowdet.evaluation.matching import SCORE_THRESHOLD, ground_truth_instances
from flowdet.visualization.drawing import (
    DetectionVisualizer,
    DrawnBox,
    class_color,
    contact_sheet,
    draw_boxes,
    image_of,
)


def preview_sheet(cfg: CfgNode, model: nn.Module, dataset_name: str, count: int) -> Image.Image:
    """A sheet of test images, spread evenly over the dataset: objects left, detections right.

    Args:
        cfg: resolved.
        model: a detector, in training or not.
        count: of the images; at most.
    """
    records = get_detection_dicts(dataset_name, keep_difficult=True)
    records = [records[i] for i in evenly(len(records), count)]
    names = cfg.MODEL.CLASS_NAMES
    visualizer = DetectionVisualizer(names, SCORE_THRESHOLD)
    tiles, titles = [], []
    for record, found in zip(records, detect(cfg, model, records), strict=True):
        result = {"file_name": record["file_name"], "instances": found}
        tiles += [ground_truth_tile(record, names), visualizer.tile(result)]
        titles += [f"{record['image_id']}: objects", "detections"]
    return contact_sheet(tiles, titles, columns=min(4, len(tiles)))


def detect(cfg: CfgNode, model: nn.Module, records: Sequence[dict]) -> list[Instances]:
    """What a detector finds in the images of dataset dicts, on the CPU; it never sees their
    annotations."""
    mapper = FlowDatasetMapper(cfg, is_train=False)
    size, found = cfg.TEST.BATCH_SIZE, []
    with inference_context(model), torch.no_grad():
        for first in range(0, len(records), size):
            inputs = [mapper(record) for record in records[first : first + size]]
            found += [output["instances"].to("cpu") for output in model(inputs)]
    return found


def ground_truth_tile(record: dict, class_names: Sequence[str]) -> Image.Image:
    """The image of a dataset dict with its objects; those that evaluation ignores are dotted."""
    truth = ground_truth_instances(record)
    marks = [
        DrawnBox(box, class_names[index], class_color(index), ":" if ignored else "-")
        for box, index, ignored in zip(
            truth.gt_boxes.tensor.tolist(), truth.gt_classes.tolist(), truth.ignored.tolist()
        )
    ]
    return draw_boxes(image_of(record), marks)
