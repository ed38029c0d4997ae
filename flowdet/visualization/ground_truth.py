"""Draws images of a dataset with their ground-truth boxes."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.visualization.drawing import DetectionVisualizer, contact_sheet


def ground_truth_sheet(
    records: dict[str, list[dict]], class_names: list[str], count: int, seed: int = 0
) -> Image.Image:
    """Draws a random sample of the images, with their ground-truth boxes, on one sheet.

    Args:
        records: dataset dicts by split, with boxes as absolute xyxy in pixels.
        class_names: the class names by class index.
        count: number of images; it is divided equally among the splits, rounded up.
        seed: random seed of the sample.

    Returns:
        One tile per image, titled with its split and file name.

    Raises:
        OSError: an image cannot be read.
        ValueError: the sheet would have more than `MAX_TILES` tiles.
    """
    rng, visualizer, chosen = np.random.default_rng(seed), DetectionVisualizer(class_names), []
    for split, split_records in records.items():
        size = min(-(-count // len(records)), len(split_records))
        indices = sorted(rng.choice(len(split_records), size=size, replace=False).tolist())
        chosen += [(split, split_records[i]) for i in indices]
    tiles = [visualizer.tile({**r, "instances": _instances(r)}) for _, r in chosen]
    titles = [f"{split}: {r['file_name'].rpartition('/')[2]}" for split, r in chosen]
    return contact_sheet(tiles, titles)


def _instances(record: dict) -> Instances:
    """Converts the annotations of an image to Instances like detections, without scores."""
    annotations = record["annotations"]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    return instances
