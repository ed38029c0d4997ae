"""The detection loss on matched queries (eq. 18), and the weights of all losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from flowdet.detection.boxes import paired_iou_and_giou, to_corners
from flowdet.detection.targets import Targets, nearest_objects


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses of a detector.

    Attributes:
        classes, bbox, giou: weights of the classification, L1 and GIoU losses.
        background: weight of one background query in the classification loss.
        flow: weight of the flow loss.
        first_block: weight of all losses of the first block (in `BackpropDetector`: layer).
        start: weight of the losses at t = 0 that `StateSettings.learn_at_start` adds.

    Raises:
        ValueError: a weight is out of its range.
    """

    classes: float = 4.0
    bbox: float = 5.0
    giou: float = 2.0
    background: float = 0.04
    flow: float = 0.02
    first_block: float = 1.0
    start: float = 0.25

    def __post_init__(self):
        if not 0 < self.first_block <= 1:
            raise ValueError(
                "MODEL.FLOW_DET.FIRST_BLOCK_WEIGHT must be above 0 and at most 1, got "
                f"{self.first_block}"
            )
        if self.start <= 0:
            raise ValueError(
                f"MODEL.FLOW_DET.START_WEIGHT must be above 0, got {self.start}: set "
                "LEARN_AT_START False to train nothing at t = 0"
            )
        if self.background < 0:
            raise ValueError(
                "MODEL.FLOW_DET.BACKGROUND_WEIGHT_PER_IMAGE must not be negative, got "
                f"{self.background} per query"
            )

    def per_block(self, num_blocks: int) -> list[float]:
        """Returns the weight of the losses of each block (in the baseline: layer).

        It is `first_block` for the first block, and doubles from block to block up to 1. So the
        shared parts are trained mostly for the last blocks, whose boxes are reported.
        """
        return [min(self.first_block * 2**k, 1.0) for k in range(num_blocks)]


class LossNormalizer(NamedTuple):
    """The divisors of the summed losses. They do not depend on the matching.

    They are averages over all processes. The gradients of several processes then equal those of one
    process with the whole batch.

    Attributes:
        boxes: the number of objects, at least 1.
        classes: the class weights, summed over all queries.
    """

    boxes: Tensor
    classes: Tensor


class SetCriterion(nn.Module):
    """The detection loss: cross-entropy over all queries, L1 and GIoU over matched queries.

    Args:
        num_classes: C; class C is background.
        weights: weights of the losses.
        iou_aware_targets: use soft class targets for matched queries. The target probability of the
            object's class is the IoU of the predicted box, and background gets the rest, so that
            scores rank boxes. The background weight applies only to unmatched queries.
        ignore_iou: unmatched queries whose box has at least this IoU with an object have no
            classification loss: their box shows an object, so they are no examples of background.
            Objects that are dropped for one-to-one matching count too. 1 turns this off.

    Raises:
        ValueError: `iou_aware_targets` without a background weight; or `ignore_iou` out of range.
    """

    def __init__(
        self,
        num_classes: int,
        weights: LossWeights,
        iou_aware_targets: bool = False,
        ignore_iou: float = 1.0,
    ):
        super().__init__()
        if not 0 < ignore_iou <= 1:
            raise ValueError(
                "MODEL.FLOW_DET.IGNORE_IOU must be above 0 and at most 1 (which turns it off), got "
                f"{ignore_iou}"
            )
        if iou_aware_targets and weights.background <= 0:
            raise ValueError(
                "MODEL.FLOW_DET.IOU_AWARE_TARGETS needs a BACKGROUND_WEIGHT_PER_IMAGE above 0, got "
                f"{weights.background}"
            )
        self.num_classes = num_classes
        self.weights = weights
        self.iou_aware_targets = iou_aware_targets
        self.ignore_iou = ignore_iou
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = weights.background
        self.register_buffer("class_weights", class_weights, persistent=False)

    def normalizer(self, targets: Targets, num_queries: int) -> LossNormalizer:
        """Computes the divisors of the losses. Call it once per iteration, in all processes."""
        objects = sum(targets.counts)
        background = len(targets.counts) * num_queries - objects
        values = self.class_weights.new_tensor(
            [objects, objects + self.weights.background * background]
        )
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= comm.get_world_size()
        return LossNormalizer(boxes=values[0].clamp(min=1), classes=values[1].clamp(min=1e-6))

    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        assigned: Tensor,
        normalizer: LossNormalizer,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes the weighted losses, and statistics for the log.

        Args:
            logits: [B, M, C + 1].
            boxes: [B, M, 4], normalized cxcywh.
            targets: the objects.
            assigned: index of the object of each query, [B, M]; -1 is background.
            normalizer: the divisors of this iteration.

        Returns:
            The losses `loss_cls`, `loss_bbox` and `loss_giou`; and the statistics `matched_iou` and
            `class_accuracy`, which are means over the matched queries, without gradient. Without
            matched queries they are NaN.
        """
        # All queries go through the same operations, and those without an object get weight 0. To
        # select the others, the host would wait for the device to count them.
        matched = assigned >= 0
        boxes = boxes.float()
        target_classes, target_boxes = self._targets_of_queries(targets, assigned)
        iou, giou = paired_iou_and_giou(to_corners(boxes), to_corners(target_boxes))
        iou = iou.detach()
        soft_targets = self._soft_targets(target_classes, matched, iou)
        if self.ignore_iou < 1:
            nearest, _ = nearest_objects(boxes, targets.complete)
            ignored = ~matched & (nearest >= self.ignore_iou)
            soft_targets = soft_targets.masked_fill(ignored[..., None], 0.0)
        distance = (boxes - target_boxes).abs().sum(dim=-1)
        losses = {
            "loss_cls": self._class_loss(logits, soft_targets) / normalizer.classes,
            "loss_bbox": self.weights.bbox * (distance * matched).sum() / normalizer.boxes,
            "loss_giou": self.weights.giou * ((1 - giou) * matched).sum() / normalizer.boxes,
        }
        return losses, self._statistics(logits, target_classes, matched, iou)

    def _targets_of_queries(self, targets: Targets, assigned: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the class [B, M] and box [B, M, 4] of the object of each query.

        Those of background are class C and any box.
        """
        classes = F.pad(targets.classes, (0, 1), value=self.num_classes)
        boxes = F.pad(targets.boxes, (0, 0, 0, 1), value=0.5)
        last = targets.classes.shape[1]
        index = assigned.masked_fill(assigned < 0, last)
        return classes.gather(1, index), boxes.gather(1, index[..., None].expand(-1, -1, 4))

    def _soft_targets(self, target_classes: Tensor, matched: Tensor, iou: Tensor) -> Tensor:
        """Returns the target probabilities of each query, [B, M, C + 1]."""
        shape = (*target_classes.shape, self.num_classes + 1)
        soft_targets = self.class_weights.new_zeros(shape)
        if not self.iou_aware_targets:
            return soft_targets.scatter_(-1, target_classes[..., None], 1.0)
        probability = torch.where(matched, iou, 1.0)
        soft_targets.scatter_(-1, target_classes[..., None], probability[..., None])
        # divided by the background weight, so that it weighs as much as the object's class
        soft_targets[..., -1] += torch.where(matched, 1 - iou, 0.0) / self.weights.background
        return soft_targets

    def _class_loss(self, logits: Tensor, soft_targets: Tensor) -> Tensor:
        """Returns the weighted cross-entropy to the target probabilities, summed over queries."""
        loss = F.cross_entropy(
            logits.float().flatten(0, 1),
            soft_targets.flatten(0, 1),
            weight=self.class_weights,
            reduction="sum",
        )
        return self.weights.classes * loss

    @torch.no_grad()
    def _statistics(
        self, logits: Tensor, target_classes: Tensor, matched: Tensor, iou: Tensor
    ) -> dict[str, Tensor]:
        correct = logits.argmax(dim=-1) == target_classes
        count = matched.sum()
        return {
            "matched_iou": (iou * matched).sum() / count,
            "class_accuracy": (correct & matched).sum() / count,
        }

    def extra_repr(self) -> str:
        return (
            f"{self.weights}, iou_aware_targets={self.iou_aware_targets}, "
            f"ignore_iou={self.ignore_iou}"
        )
