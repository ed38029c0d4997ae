"""Measures how well the flow blocks agree on a detection."""

from __future__ import annotations

from detectron2.structures import Instances
from torch import Tensor

from flowdet.config.errors import UsageError
from flowdet.detection import FlowMatchingDetector, SetDetector
from flowdet.detection.base_detector import original_size
from flowdet.detection.boxes import paired_iou, to_absolute
from flowdet.detection.tokens import ImageTokens


def check_has_blocks(model: object) -> None:
    """Raises UsageError if a model has fewer than two independent flow blocks."""
    if not isinstance(model, FlowMatchingDetector):
        raise UsageError(
            f"a {type(model).__name__} has no independent blocks: block agreement needs a "
            "FlowMatchingDetector"
        )
    if model.flow.num_blocks < 2:
        raise UsageError("block agreement needs at least two blocks, the model has one")


def block_agreement(
    model: SetDetector, tokens: ImageTokens, inputs: list[dict], instances: list[Instances]
) -> list[dict]:
    """Evaluates every block at the state before the last step and compares their predictions.

    It is an `ImageAnalysis` that adds the fields of `add_block_agreement` to `instances`. It adds
    nothing to the results.

    Raises:
        ValueError: as `check_has_blocks`.
    """
    check_has_blocks(model)
    logits, boxes = model.heads(model.block_estimates(tokens))
    for i, (x, detections) in enumerate(zip(inputs, instances, strict=True)):
        compare_blocks(detections, logits[:, i], boxes[:, i], original_size(x))
    return [{}] * len(inputs)


def compare_blocks(
    instances: Instances, logits: Tensor, boxes: Tensor, size: tuple[int, int]
) -> None:
    """Adds the fields of `add_block_agreement` to the detections of one image, in place.

    Args:
        instances: the detections, with `pred_queries`.
        logits: the class logits of every block, [T, M, C + 1].
        boxes: the boxes of every block, [T, M, 4], normalized cxcywh.
        size: (height, width) of the original image, in pixels.
    """
    queries = instances.pred_queries
    block_boxes = to_absolute(boxes[:, queries], size).transpose(0, 1)
    columns = instances.pred_classes.expand(len(logits), -1)[..., None]
    block_scores = logits[:, queries].softmax(-1).gather(-1, columns)[..., 0].T
    add_block_agreement(instances, block_boxes, block_scores)


def add_block_agreement(instances: Instances, boxes: Tensor, scores: Tensor) -> None:
    """Adds measures of agreement to N detections, computed from the predictions of T blocks.

    The new fields are `block_boxes` (`boxes`), `block_scores` (`scores`), `box_spread` [N] and
    `agreement` [N]. `box_spread` is the standard deviation of a box coordinate over the blocks, in
    pixels, averaged over the four coordinates. `agreement` is the mean score of the blocks times
    the mean IoU of their boxes with the box of the detection.

    Args:
        instances: the N detections; the fields are added in place.
        boxes: the box of every block for the query of each detection, [N, T, 4], absolute xyxy.
        scores: the score of every block for the class of each detection, [N, T].
    """
    instances.block_boxes, instances.block_scores = boxes, scores
    # no Bessel correction, because the T blocks are the whole population, not a sample
    # (torch.std warns without detections)
    deviation = boxes - boxes.mean(dim=1, keepdim=True)
    instances.box_spread = deviation.square().mean(dim=1).sqrt().mean(dim=-1)
    iou = paired_iou(boxes, instances.pred_boxes.tensor[:, None])
    instances.agreement = scores.mean(dim=1) * iou.mean(dim=1)
