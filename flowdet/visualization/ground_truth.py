"""Draws annotated images of a dataset."""

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
        class_names: by class index.
        count: number of images; every split gets the same share, rounded up.
        seed: of the sample.

    Returns:
        One tile per image, titled with its split and file name.

    Raises:
        OSError: an image cannot be read.
        ValueError: the images do not fit on one sheet.
    """
    rng, visualizer, chosen = np.random.default_rng(seed), DetectionVisualizer(class_names), []
    for split, of_split in records.items():
        size = min(-(-count // len(records)), len(of_split))
        indices = sorted(rng.choice(len(of_split), size=size, replace=False).tolist())
        chosen += [(split, of_split[i]) for i in indices]
    tiles = [visualizer.tile({**r, "instances": _instances(r)}) for _, r in chosen]
    titles = [f"{split}: {r['file_name'].rpartition('/')[2]}" for split, r in chosen]
    return contact_sheet(tiles, titles)


def _instances(record: dict) -> Instances:
    """Returns the annotations of an image in the form of detections without scores."""
    annotations = record["annotations"]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    return instances
