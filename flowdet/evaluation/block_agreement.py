"""Agreement of the flow blocks about a detection."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

from flowdet.detection import FlowMatchingDetector, SetDetector
from flowdet.detection.boxes import paired_iou, to_absolute
from flowdet.detection.set_detector import original_size
from flowdet.detection.tokens import ImageTokens


def check_has_blocks(model: object) -> None:
    """Raises ValueError if a model does not have several flow blocks to compare."""
    if not isinstance(model, FlowMatchingDetector):
        raise ValueError(
            f"a {type(model).__name__} has no independent blocks: block agreement needs a "
            "FlowMatchingDetector"
        )
    if model.flow.num_blocks < 2:
        raise ValueError("block agreement needs at least two blocks, the model has one")


def block_agreement(
    model: SetDetector, tokens: ImageTokens, inputs: list[dict], instances: list[Instances]
) -> list[dict]:
    """Evaluates every block at the state before the last step and compares their predictions.

    An `ImageAnalysis`: it adds the fields of `add_block_agreement` to `instances` and nothing to
    the results.

    Raises:
        ValueError: as `check_has_blocks`.
    """
    check_has_blocks(model)
    logits, boxes = model.heads(model.block_estimates(tokens))
    for i, (x, detections) in enumerate(zip(inputs, instances, strict=True)):
        queries = detections.pred_queries
        block_boxes = to_absolute(boxes[:, i, queries], original_size(x)).transpose(0, 1)
        columns = detections.pred_classes.expand(len(logits), -1)[..., None]
        block_scores = logits[:, i, queries].softmax(-1).gather(-1, columns)[..., 0].T
        add_block_agreement(detections, block_boxes, block_scores)
    return [{}] * len(inputs)


def add_block_agreement(instances: Instances, boxes: Tensor, scores: Tensor) -> None:
    """Adds measures of agreement to N detections, from the predictions of T blocks.

    Args:
        instances: the detections. These fields are added: `block_boxes` and `block_scores`, the
            other arguments; `box_spread` [N], the standard deviation over the blocks of a side of
            the box, in pixels, averaged over its four sides; and `agreement` [N], the mean score of
            the blocks times the mean IoU of their boxes with that of the detection.
        boxes: of the blocks for the query of each detection, [N, T, 4], absolute xyxy.
        scores: of the blocks for the class of each detection, [N, T].
    """
    instances.block_boxes, instances.block_scores = boxes, scores
    # the T blocks are the whole population, not a sample: no Bessel correction
    instances.box_spread = torch.std(boxes, dim=1, correction=0).mean(dim=-1)
    iou = paired_iou(boxes, instances.pred_boxes.tensor[:, None])
    instances.agreement = scores.mean(dim=1) * iou.mean(dim=1)
