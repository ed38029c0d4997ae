"""Pictures of a few test images: what a classifier takes them for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from PIL import Image
from torch import Tensor, nn

from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.classification.images import model_input, read
from flowdet.data.image_files import evenly
from flowdet.visualization.drawing import TILE, contact_sheet


def preview_sheet(cfg: CfgNode, model: nn.Module, dataset_name: str, count: int) -> Image.Image:
    """A sheet of test images, spread evenly over the dataset: above each its true class, and the
    most probable one where that is another.

    Args:
        cfg: resolved.
        model: a classifier, in training or not.
        count: of the images; at most.
    """
    records = get_classification_dicts(dataset_name)
    records = [records[i] for i in evenly(len(records), count)]
    probabilities = classify(cfg, model, records)
    titles = [
        verdict(record, p, cfg.MODEL.CLASS_NAMES) for record, p in zip(records, probabilities)
    ]
    return contact_sheet([tile(record) for record in records], titles)


def classify(cfg: CfgNode, model: nn.Module, records: Sequence[dict]) -> Tensor:
    """Class probabilities [N, C] of the images of dataset dicts, on the CPU, in the configured
    inference mode; the model never sees their labels."""
    size, logits = cfg.TEST.BATCH_SIZE, []
    with inference_context(model):
        for first in range(0, len(records), size):
            batch = records[first : first + size]
            images = model_input(batch, tuple(cfg.INPUT.FIXED_SIZE), cfg.INPUT.FORMAT)
            outputs = model.inference([{"image": x} for x in images], all_modes=False)
            logits += [output["logits"][0].cpu() for output in outputs]
    return torch.stack(logits).softmax(dim=1)


def verdict(record: dict, probabilities: Tensor, class_names: Sequence[str]) -> str:
    """`cat 98%`, or `dog 60%, is cat 31%`."""
    label, best = record["label"], int(probabilities.argmax())
    own = f"{class_names[label]} {probabilities[label]:.0%}"
    return own if best == label else f"{class_names[best]} {probabilities[best]:.0%}, is {own}"


def tile(record: dict) -> Image.Image:
    """The image of a dataset dict, its longer side half of `TILE`."""
    image = Image.fromarray(read(record).permute(1, 2, 0).numpy())
    factor = TILE / 2 / max(image.size)
    size = [max(round(x * factor), 1) for x in image.size]
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC)
