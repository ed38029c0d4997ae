"""Sheets of annotated images."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.visualization.drawing import DetectionVisualizer, contact_sheet


def ground_truth_sheet(
    records: dict[str, list[dict]], class_names: list[str], count: int, seed: int = 0
) -> Image.Image:
    """About `count` images of all splits, drawn at random, with their boxes.

    Raises ValueError for more images than fit a sheet, OSError for one that cannot be read.
    """
    rng, visualizer, chosen = np.random.default_rng(seed), DetectionVisualizer(class_names), []
    for split, of_split in records.items():
        share = min(-(-count // len(records)), len(of_split))
        picks = sorted(rng.choice(len(of_split), size=share, replace=False).tolist())
        chosen += [(split, of_split[i]) for i in picks]
    tiles = [visualizer.tile({**r, "instances": _instances(r)}) for _, r in chosen]
    titles = [f"{split}: {r['file_name'].rpartition('/')[2]}" for split, r in chosen]
    return contact_sheet(tiles, titles)


def _instances(record: dict) -> Instances:
    """The annotations of an image, as detections without scores are."""
    annotations = record["annotations"]
    found = Instances((record["height"], record["width"]))
    found.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4))
    found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    return found
