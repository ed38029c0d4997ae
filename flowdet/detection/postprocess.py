"""PostProcessor: turns decoded queries into detections in the original image (A.3.4, D.1)."""

from __future__ import annotations

from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Instances
from torch import Tensor, nn

from flowdet.detection.boxes import to_corners


def check_thresholds(score_threshold: float, nms_threshold: float) -> None:
    """Raises ValueError if a threshold is outside [0, 1]."""
    for key, value in (("SCORE_THRESHOLD", score_threshold), ("NMS_THRESHOLD", nms_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"MODEL.FLOW_DET.{key} must be in [0, 1], got {value}")


class PostProcessor(nn.Module):
    """Applies a score threshold, class-wise non-maximum suppression, and a limit of detections.

    The score of a detection is the softmax probability of its class. A query can give detections of
    several classes.

    Args:
        score_threshold: detections whose score is not above it are dropped.
        nms_threshold: if the IoU of two boxes of a class is above it, the box with the lower score
            is dropped; 1 keeps all boxes.
        max_detections: maximum number of detections per image.

    Raises:
        ValueError: a threshold outside [0, 1].
    """

    def __init__(self, score_threshold: float, nms_threshold: float, max_detections: int):
        super().__init__()
        check_thresholds(score_threshold, nms_threshold)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        image_size: tuple[int, int],
        output_size: tuple[int, int],
        score_factors: Tensor | None = None,
    ) -> Instances:
        """Computes the detections of one image.

        Args:
            logits: [M, C + 1], background last.
            boxes: [M, 4], normalized cxcywh.
            image_size: (height, width) of the model's input, in pixels.
            output_size: (height, width) of the original image, in pixels.
            score_factors: factors by which the scores are multiplied, [M]; None for 1.

        Returns:
            `pred_boxes` (absolute xyxy in the original image), `scores`, `pred_classes` and
            `pred_queries` (the index of the query of each detection), by descending score; with
            `score_factors` also `stability`, the factor of each detection.
        """
        instances, queries = fast_rcnn_inference_single_image(
            *self.decode(logits, boxes, image_size, score_factors),
            image_size,
            self.score_threshold,
            self.nms_threshold,
            self.max_detections,
        )
        instances.pred_queries = queries
        if score_factors is not None:
            instances.stability = score_factors[queries]
        return detector_postprocess(instances, *output_size)

    @staticmethod
    def decode(
        logits: Tensor,
        boxes: Tensor,
        image_size: tuple[int, int],
        score_factors: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Computes boxes in pixels and scores; for the arguments see `forward`.

        Returns:
            Boxes, absolute xyxy in the model's input, not clipped, [..., M, 4]; and scores,
            background last, [..., M, C + 1].
        """
        height, width = image_size
        scale = boxes.new_tensor([width, height, width, height])
        scores = logits.softmax(-1)
        if score_factors is not None:
            scores = scores * score_factors[..., None]
        return to_corners(boxes) * scale, scores
