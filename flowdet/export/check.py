"""Compares exported files with the PyTorch model and keeps only those with matching outputs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from flowdet.config.errors import UsageError
from flowdet.export.formats import FORMATS, Runner
from flowdet.export.graphs import DetectionGraph, Graph
from flowdet.temporary_file import temporary_file
from flowdet.terminal import terminal_bar

# number of images in a batch
BATCH = 8


class Difference(NamedTuple):
    """The difference between the outputs of a file and of the PyTorch model.

    Attributes:
        largest: the largest difference of a score or probability, or of a box coordinate divided by
            the image's width or height. Each detection is compared with the nearest detection of
            its class in the other output. The value is 1 or more if the numbers of detections
            differ, or if the other output has no detection of this class.
        images: the number of images that were compared.
        detections: the number of detections of the model in these images; None for a classifier.
    """

    largest: float
    images: int
    detections: int | None = None


@torch.no_grad()
def measure_difference(
    graph: Graph, run: Runner, images: Tensor, noise_input: bool = False
) -> Difference:
    """Runs images through a file and through the model, in batches and the first image alone.

    Args:
        graph: the graph that the file was written from.
        run: runs the file, see `flowdet.export.formats`.
        images: uint8 [B, 3, H, W].
        noise_input: whether to pass the noise of the graph to `run`.
    """
    is_detector = isinstance(graph, DetectionGraph)
    differences = []
    batches = [images[:1], *images.split(BATCH)]
    for batch in terminal_bar(batches, desc="compare with the model", unit="batch"):
        noise = graph.initial_noise(len(batch), None).contiguous() if noise_input else None
        expected = (_detections if is_detector else _probabilities)(graph, batch)
        outputs = _file_outputs(graph, run(batch, noise))
        differences += [
            (_distance(rows, other), len(rows))
            for rows, other in zip(expected, outputs, strict=True)
        ]
    # unlike max(), this returns nan if a difference is nan
    largest = float(torch.tensor([x for x, _ in differences]).max())
    count = sum(count for _, count in differences[1:]) if is_detector else None
    return Difference(largest, len(images), count)


def _detections(graph: DetectionGraph, images: Tensor) -> list[Tensor]:
    """Returns the detections of the model in each image, in the form of `_detection_rows`."""
    results = [x["instances"] for x in graph.model.inference([{"image": x} for x in images])]
    return [_detection_rows(graph, x.pred_boxes.tensor, x.scores, x.pred_classes) for x in results]


def _probabilities(graph: Graph, images: Tensor) -> list[Tensor]:
    """Returns the class probabilities of the model for each image, in the form of `_class_rows`."""
    results = graph.model.inference([{"image": x} for x in images], all_modes=False)
    return [_class_rows(x["logits"][0].softmax(dim=0)) for x in results]


def _file_outputs(graph: Graph, outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Converts the outputs of a file to the form of `_detections` or `_probabilities`."""
    if not isinstance(graph, DetectionGraph):
        return [_class_rows(x) for x in outputs[0]]
    rules = graph.model.postprocess
    rows = []
    for boxes, scores, classes in zip(*outputs):
        keep = (scores > 0).nonzero().flatten()
        if not graph.suppress:
            best = batched_nms(boxes[keep], scores[keep], classes[keep], rules.nms_threshold)
            keep = keep[best[: rules.max_detections] if rules.max_detections >= 0 else best]
        rows.append(_detection_rows(graph, boxes[keep], scores[keep], classes[keep]))
    return rows


def _detection_rows(
    graph: DetectionGraph, boxes: Tensor, scores: Tensor, classes: Tensor
) -> Tensor:
    """Returns one row per detection, [N, 6]: box relative to the image size, score, class."""
    height, width = graph.size
    relative = boxes / boxes.new_tensor([width, height, width, height])
    return torch.cat([relative, scores[:, None], classes[:, None]], dim=1)


def _class_rows(probabilities: Tensor) -> Tensor:
    """Returns one row per class, [C, 2]: its probability and its index."""
    return torch.stack([probabilities, torch.arange(len(probabilities))], dim=1)


def _distance(rows: Tensor, other: Tensor) -> float:
    """Returns the largest distance of a row [N, F] from the nearest row of the other set.

    The order of the rows does not matter, because it is arbitrary for equal scores. The distance of
    two rows is the maximum over the F columns, so it is at least 1 for rows of different classes.
    """
    if len(rows) != len(other):
        return 1.0
    if not len(rows):
        return 0.0
    # unlike cdist, this returns nan if a value is nan
    distances = (rows[:, None] - other).abs().amax(dim=-1)
    return float(torch.cat([distances.amin(dim=0), distances.amin(dim=1)]).max())


def export(
    graph: Graph,
    path: Path,
    kind: str,
    *,
    metadata: dict[str, str],
    noise_input: bool,
    images: Tensor,
    tolerance: float,
) -> Difference:
    """Writes a graph to a file, and keeps the file only if its outputs match the PyTorch model's.

    Args:
        graph: the graph to write.
        path: the path of the file; its folder is created.
        kind: a key of `FORMATS`.
        metadata: see `metadata_of`.
        noise_input: whether the file has an input for the noise, see `write_onnx` and
            `write_torch`.
        images: uint8 [B, 3, H, W], on which the file is compared with the model.
        tolerance: the maximum of `Difference.largest`.

    Raises:
        ValueError: the outputs differ by more than `tolerance`, or `noise_input` is True and the
            model has no initial noise.
    """
    if noise_input and graph.noise is None:
        raise UsageError(
            f"a {type(graph.model).__name__} has no initial noise: export without a noise input"
        )
    file = FORMATS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(path, file.suffix) as temporary:
        with terminal_bar(total=2, unit="step", desc=f"write {path.name}") as bar:
            file.write(graph, temporary, metadata, noise_input)
            bar.update()
            bar.set_description(f"open {path.name}")
            run = file.open(temporary)
        difference = measure_difference(graph, run, images, noise_input)
        if not difference.largest <= tolerance:
            raise ValueError(
                f"{path} is not written: its outputs differ from the model's by "
                f"{difference.largest:.2g} (scores, or boxes relative to the image size), more "
                f"than the tolerance {tolerance:g}"
            )
    return difference
