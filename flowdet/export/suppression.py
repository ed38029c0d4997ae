"""Class-wise non-maximum suppression (NMS) of a batch as one operator, for torch and ONNX."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@torch.library.custom_op("flowdet::unsuppressed", mutates_args=())
def unsuppressed(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Returns the mask of the detections that NMS keeps, separately for each image and class.

    torchvision's NMS handles one image and returns a variable number of indices, but a graph for
    batches needs a fixed output shape.

    Args:
        boxes: [B, M, 4], xyxy.
        scores: [B, C, M].
        iou_threshold: if two boxes of a class have a higher IoU, the one with the lower score is
            removed.
        score_threshold: detections with this score or a lower one are removed before NMS.

    Returns:
        bool [B, C, M].
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
    """Returns the translation of the operator to ONNX's NonMaxSuppression, for `torch.onnx`."""
    from onnxscript import opset18 as op

    def translate(boxes, scores, iou_threshold: float, score_threshold: float):
        shape = op.Shape(scores)
        # (image, class, query) of each detection that is kept
        indices = op.NonMaxSuppression(
            boxes,
            scores,
            op.Shape(scores, start=2),
            op.Constant(value_float=iou_threshold),
            op.Constant(value_float=score_threshold),
        )
        zeros = op.ConstantOfShape(shape)
        ones = op.ConstantOfShape(op.Shape(indices, end=1)) + 1.0
        # 9 is ONNX's bool
        return op.Cast(op.ScatterND(zeros, indices, ones), to=9)

    return {torch.ops.flowdet.unsuppressed.default: translate}
