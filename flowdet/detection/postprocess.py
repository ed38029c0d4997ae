"""PostProcessor: turns decoded queries into detections in the original image (A.3.4, D.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from flowdet.detection.boxes import to_corners

_NOT_FINITE = (
    "the model predicts boxes or scores that are NaN or infinite; they are left out, so detections "
    "and AP are wrong: take the weights of an earlier checkpoint, or float32"
)


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
        output_sizes: Sequence[tuple[int, int]],
        score_factors: Tensor | None = None,
    ) -> list[Instances]:
        """Computes the detections of B images of one size, all images at once.

        So the number of operations, and of copies to the host, does not depend on B. The result is
        that of detectron2's `fast_rcnn_inference_single_image` for each image.

        Args:
            logits: [B, M, C + 1], background last.
            boxes: [B, M, 4], normalized cxcywh.
            image_size: (height, width) of the model's inputs, in pixels.
            output_sizes: (height, width) of each original image, in pixels.
            score_factors: factors by which the scores are multiplied, [B, M]; None for 1.

        Queries whose box or score is NaN or infinite are dropped, and a warning says so.

        Returns:
            For each image `pred_boxes` (absolute xyxy in the original image), `scores`,
            `pred_classes` and `pred_queries` (the index of the query of each detection), by
            descending score; with `score_factors` also `stability`, the factor of each detection.
        """
        boxes, scores = self.decode(logits, boxes, image_size, score_factors)
        finite = boxes.isfinite().all(dim=-1) & scores.isfinite().all(dim=-1)
        above = (scores[..., :-1] > self.score_threshold) & finite[..., None]
        image, query, label = above.nonzero(as_tuple=True)
        scores = scores[image, query, label]
        boxes = clip_boxes_to_image(boxes[image, query], image_size)
        kept = self._suppress(boxes, scores, image * logits.shape[-1] + label)
        kept = kept[image[kept].argsort(stable=True)]
        image, query = image[kept], query[kept]
        boxes, visible = _in_original_images(boxes[kept], image, image_size, output_sizes)
        # indices, not a mask: for every use of a mask, the host would wait for the device
        shown = (visible & self._is_among_best(image, len(output_sizes))).nonzero()[:, 0]
        fields = {
            "pred_boxes": boxes,
            "scores": scores[kept],
            "pred_classes": label[kept],
            "pred_queries": query,
        }
        if score_factors is not None:
            fields["stability"] = score_factors[image, query]
        fields = {name: values[shown] for name, values in fields.items()}
        # one copy to the host for all numbers
        dropped = finite.logical_not().sum()[None]
        counts = torch.cat([image[shown].bincount(minlength=len(output_sizes)), dropped])
        *counts, dropped = counts.tolist()
        if dropped:
            log_first_n(logging.WARNING, _NOT_FINITE, name=__name__)
        return _split(fields, counts, output_sizes)

    def _suppress(self, boxes: Tensor, scores: Tensor, group: Tensor) -> Tensor:
        """Returns the indices of detections after NMS in each group, by descending score.

        torchvision shifts the boxes of different groups apart. In double precision, the shift does
        not change a box by its rounding, however many groups there are.
        """
        return batched_nms(boxes.double(), scores.double(), group, self.nms_threshold)

    def _is_among_best(self, image: Tensor, num_images: int) -> Tensor:
        """Returns whether a detection is among the first `max_detections` of its image, [N].

        Args:
            image: the index of the image of each detection, [N], ascending.
            num_images: B.
        """
        # a negative maximum means no limit, as in detectron2
        if self.max_detections < 0:
            return torch.ones_like(image, dtype=torch.bool)
        counts = image.bincount(minlength=num_images)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(image), device=image.device) - first[image]
        return rank < self.max_detections

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


def _in_original_images(
    boxes: Tensor,
    image: Tensor,
    image_size: tuple[int, int],
    output_sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Scales boxes to the original images and clips them, as detectron2's `detector_postprocess`.

    Args:
        boxes: absolute xyxy in the model's input, [N, 4].
        image: the index of the image of each box, [N].
        image_size, output_sizes: see `PostProcessor.forward`.

    Returns:
        Absolute xyxy in the original images, [N, 4]; and whether a box has an area there, [N].
    """
    sizes = boxes.new_tensor(output_sizes).flip(-1).repeat(1, 2)[image]
    height, width = image_size
    boxes = boxes * (sizes / boxes.new_tensor([width, height, width, height]))
    boxes = boxes.clamp(min=0).minimum(sizes)
    return boxes, (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)


def _split(
    fields: dict[str, Tensor], counts: list[int], output_sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """Returns the `Instances` of every image, of which the first `counts[0]` are in the first."""
    parts = zip(*(values.split(counts) for values in fields.values()), strict=True)
    results = []
    for size, values in zip(output_sizes, parts, strict=True):
        boxes, *others = values
        results.append(Instances(size, pred_boxes=Boxes(boxes)))
        for name, value in zip(list(fields)[1:], others, strict=True):
            results[-1].set(name, value)
    return results
