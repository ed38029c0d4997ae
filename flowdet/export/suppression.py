"""Class-wise suppression of a batch as one operator of fixed shape, in eager torch and in ONNX."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@torch.library.custom_op("flowdet::unsuppressed", mutates_args=())
def unsuppressed(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Which detections non-maximum suppression keeps, image by image and class by class.

    torchvision's operator returns as many indices as it keeps, of one image; a graph for batches
    needs one shape.

    Args:
        boxes: [B, M, 4], xyxy.
        scores: [B, C, M].
        iou_threshold: above which the less confident of two boxes of a class is dropped.
        score_threshold: at or below which a detection is dropped before.

    Returns:
        bool, [B, C, M].
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(scores)):
        classes, queries = (scores[image] > score_threshold).nonzero(as_tuple=True)
        best = batched_nms(
            boxes[image, queries], scores[image, classes, queries], classes, iou_threshold
        )
        kept[image, classes[best], queries[best]] = True
    return kept


@unsuppressed.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict:
    """How `torch.onnx.export` writes the operator: as ONNX's own NonMaxSuppression."""
    from onnxscript import opset18 as op

    def translate(boxes, scores, iou_threshold: float, score_threshold: float):
        shape = op.Shape(scores)
        # (image, class, query) of each kept one
        found = op.NonMaxSuppression(
            boxes,
            scores,
            op.Shape(scores, start=2),
            op.Constant(value_float=iou_threshold),
            op.Constant(value_float=score_threshold),
        )
        none = op.ConstantOfShape(shape)
        ones = op.ConstantOfShape(op.Shape(found, end=1)) + 1.0
        return op.Cast(op.ScatterND(none, found, ones), to=9)

    return {torch.ops.flowdet.unsuppressed.default: translate}
