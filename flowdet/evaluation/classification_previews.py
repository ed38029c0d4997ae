"""Previews of a classifier: a sheet of test images with their predicted classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from PIL import Image
from torch import Tensor, nn

from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.classification.images import model_input, read_pixels
from flowdet.data.image_files import evenly_spaced_indices
from flowdet.terminal import terminal_bar
from flowdet.visualization.drawing import TILE, contact_sheet


def preview_sheet(cfg: CfgNode, model: nn.Module, dataset_name: str, count: int) -> Image.Image:
    """Draws a sheet of evenly spaced images of a dataset, titled with their `prediction_caption`.

    Args:
        cfg: the resolved config.
        model: a classifier, in training or evaluation mode.
        dataset_name: name of a registered classification dataset.
        count: the maximum number of images.
    """
    records = get_classification_dicts(dataset_name)
    records = [records[i] for i in evenly_spaced_indices(len(records), count)]
    probabilities = predict_probabilities(cfg, model, records)
    names = cfg.MODEL.CLASS_NAMES
    titles = [prediction_caption(x, p, names) for x, p in zip(records, probabilities)]
    value_range = cfg.INPUT.VALUE_RANGE
    return contact_sheet([preview_tile(record, value_range) for record in records], titles)


def predict_probabilities(cfg: CfgNode, model: nn.Module, records: Sequence[dict]) -> Tensor:
    """Predicts the class probabilities [N, C] of the images of N dataset dicts, on the CPU, in the
    configured inference mode. The model does not get the labels."""
    size, logits = cfg.TEST.BATCH_SIZE, []
    with inference_context(model):
        for first in terminal_bar(range(0, len(records), size), desc="classify", unit="batch"):
            batch = records[first : first + size]
            images = model_input(
                batch, tuple(cfg.INPUT.FIXED_SIZE), cfg.INPUT.FORMAT, cfg.INPUT.VALUE_RANGE
            )
            outputs = model.inference([{"image": x} for x in images], all_modes=False)
            logits += [output["logits"][0].cpu() for output in outputs]
    return torch.stack(logits).softmax(dim=1)


def prediction_caption(record: dict, probabilities: Tensor, class_names: Sequence[str]) -> str:
    """Returns the predicted class and its probability; for a wrong prediction also the true class.

    Examples: `cat 98%` for a correct prediction, `dog 60%, true class cat 31%` for a wrong one.

    Args:
        record: a dataset dict with `label`.
        probabilities: the class probabilities, [C].
        class_names: the class names by class index.
    """
    label, best = record["label"], int(probabilities.argmax())
    true_class = f"{class_names[label]} {probabilities[label]:.0%}"
    if best == label:
        return true_class
    return f"{class_names[best]} {probabilities[best]:.0%}, true class {true_class}"


def preview_tile(record: dict, value_range: Sequence[float] = ()) -> Image.Image:
    """Returns the image of a dataset dict, scaled so that its longer side is half of `TILE`.

    `value_range` is `INPUT.VALUE_RANGE`, for files that are not 8-bit.
    """
    image = Image.fromarray(read_pixels(record, value_range).permute(1, 2, 0).numpy())
    factor = TILE / 2 / max(image.size)
    size = [max(round(x * factor), 1) for x in image.size]
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC)
