"""Whether an exported file says what the model says; only such files are kept."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from flowdet.export.formats import FORMATS, Runner
from flowdet.export.graphs import DetectionGraph, Graph

# images at a time
BATCH = 8


class Difference(NamedTuple):
    """How far a file is from the model.

    Attributes:
        largest: difference of scores or probabilities, and of boxes in shares of the image's sides,
            from each detection to the nearest that the other has of its class; 1 or more where they
            differ in number, or the other has none.
        images: that were compared.
        detections: of the model in them; None for a classifier.
    """

    largest: float
    images: int
    detections: int | None = None


@torch.no_grad()
def difference(graph: Graph, run: Runner, images: Tensor, give_noise: bool = False) -> Difference:
    """Runs images, in batches and the first one alone, through a file and through the model.

    Args:
        graph: that the file was written from.
        run: the file, see `flowdet.export.formats`.
        images: uint8 [B, 3, H, W].
        give_noise: give `run` the noise of the graph.
    """
    detects = isinstance(graph, DetectionGraph)
    differences = []
    for batch in [images[:1], *images.split(BATCH)]:
        noise = graph.initial_noise(len(batch), None).contiguous() if give_noise else None
        expected = (_detections if detects else _probabilities)(graph, batch)
        found = _outputs(graph, run(batch, noise))
        differences += [
            (_distance(one, other), len(one)) for one, other in zip(expected, found, strict=True)
        ]
    # unlike max(), this does not pass over nan
    largest = float(torch.tensor([x for x, _ in differences]).max())
    count = sum(count for _, count in differences[1:]) if detects else None
    return Difference(largest, len(images), count)


def _detections(graph: DetectionGraph, images: Tensor) -> list[Tensor]:
    """What the model finds in each image, see `_as_rows`."""
    found = [x["instances"] for x in graph.model.inference([{"image": x} for x in images])]
    return [_as_rows(graph, x.pred_boxes.tensor, x.scores, x.pred_classes) for x in found]


def _probabilities(graph: Graph, images: Tensor) -> list[Tensor]:
    """What the model says of each image, see `_with_class`."""
    found = graph.model.inference([{"image": x} for x in images], all_modes=False)
    return [_with_class(x["logits"][0].softmax(dim=0)) for x in found]


def _outputs(graph: Graph, outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What a file returns, in the form of `_detections` or `_probabilities`."""
    if not isinstance(graph, DetectionGraph):
        return [_with_class(x) for x in outputs[0]]
    rules = graph.model.postprocess
    rows = []
    for boxes, scores, classes in zip(*outputs):
        keep = (scores > 0).nonzero().flatten()
        if not graph.suppress:
            best = batched_nms(boxes[keep], scores[keep], classes[keep], rules.nms_threshold)
            keep = keep[best[: rules.max_detections] if rules.max_detections >= 0 else best]
        rows.append(_as_rows(graph, boxes[keep], scores[keep], classes[keep]))
    return rows


def _as_rows(graph: DetectionGraph, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """One row per detection: the box in shares of the image's sides, score, class."""
    height, width = graph.size
    shares = boxes / boxes.new_tensor([width, height, width, height])
    return torch.cat([shares, scores[:, None], classes[:, None]], dim=1)


def _with_class(probabilities: Tensor) -> Tensor:
    """One row per class: its probability, and its index."""
    return torch.stack([probabilities, torch.arange(len(probabilities))], dim=1)


def _distance(one: Tensor, other: Tensor) -> float:
    """From rows to the nearest ones of another set, the largest; equal scores may come in any
    order. Rows of different classes are 1 or more apart."""
    if len(one) != len(other):
        return 1.0
    if not len(one):
        return 0.0
    # cdist would pass over nan
    between = (one[:, None] - other).abs().amax(dim=-1)
    return float(torch.cat([between.amin(dim=0), between.amin(dim=1)]).max())


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
    """Writes a file that says what the model says, or none.

    Args:
        graph: to be written.
        path: of the file; its folder is made.
        kind: a key of `FORMATS`.
        metadata: see `metadata_of`.
        noise_input: whether noise can be given, see `write_onnx` and `write_torch`.
        images: uint8 [B, 3, H, W], on which the file is compared with the model.
        tolerance: the largest `Difference` that may be.

    Raises:
        ValueError: it says something else, or the graph has no noise to be given.
    """
    if noise_input and graph.noise is None:
        raise ValueError(f"a {type(graph.model).__name__} starts from no noise")
    file = FORMATS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial{file.suffix}")
    try:
        file.write(graph, partial, metadata, noise_input)
        found = difference(graph, file.open(partial), images, noise_input)
        if not found.largest <= tolerance:
            raise ValueError(
                f"{path} is not written: the file differs from the model by {found.largest:.2g} "
                f"(scores; boxes in shares of the image's sides), more than {tolerance:g}"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return found
