"""How far the flow blocks disagree on a detection."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from flowdet.detection.base import SetDetector, original_size
from flowdet.detection.detector import FlowMatchingDetector
from flowdet.detection.travel import absolute
from flowdet.flow import ImageTokens


def check_blocks(model: object) -> None:
    """Raises ValueError, if a model has no blocks that could disagree."""
    if not isinstance(model, FlowMatchingDetector):
        raise ValueError(
            f"a {type(model).__name__} has no blocks that each find a detection: only those of a "
            "FlowMatchingDetector can disagree"
        )
    if model.flow.num_blocks < 2:
        raise ValueError("the model has one block, which disagrees with nobody")


def disagreement(
    model: SetDetector, tokens: ImageTokens, inputs: list[dict], instances: list[Instances]
) -> list[dict]:
    """Asks every block for its own opinion on the detections, at the state from which the last
    step is made; a `Question`.

    The answer is in new fields of `instances`: those of `disagree`.

    Raises:
        ValueError: as `check_blocks`.
    """
    check_blocks(model)
    logits, boxes = model.heads(model.block_estimates(tokens))
    for i, (x, found) in enumerate(zip(inputs, instances, strict=True)):
        queries = found.pred_queries
        votes = absolute(boxes[:, i, queries], original_size(x)).transpose(0, 1)
        columns = found.pred_classes.expand(len(logits), -1)[..., None]
        scores = logits[:, i, queries].softmax(-1).gather(-1, columns)[..., 0].T
        disagree(found, votes, scores)
    return [{}] * len(inputs)


def disagree(instances: Instances, boxes: Tensor, scores: Tensor) -> None:
    """Writes down what the blocks say of N detections.

    Args:
        instances: gets `block_boxes` and `block_scores`, as given, `box_spread` [N]: the standard
            deviation of a side of the box among the blocks, in pixels, the mean over its four
            sides; and `agreement` [N]: a confidence, the mean of the blocks' scores times the mean
            IoU of their boxes with that of the detection.
        boxes: [N, T, 4], absolute xyxy.
        scores: [N, T], of the class of the detection.
    """
    instances.block_boxes, instances.block_scores = boxes, scores
    # of all blocks there are, not of a sample of them
    instances.box_spread = torch.std(boxes, dim=1, correction=0).mean(dim=-1)
    own = instances.pred_boxes.tensor[:, None].expand_as(boxes)
    overlap = matched_pairwise_iou(Boxes(boxes.flatten(0, 1)), Boxes(own.flatten(0, 1)))
    instances.agreement = scores.mean(dim=1) * overlap.view_as(scores).mean(dim=1)
