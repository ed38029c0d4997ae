"""The detection loss on matched queries (eq. 18)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss

from flowdet.detection.targets import Targets


class Normaliser(NamedTuple):
    """What the summed losses are divided by: means over all processes, so that the gradients
    of several processes are those of one (DETR does so for boxes, not for classes).

    `boxes` is the number of objects (at least 1), `classes` the summed class weights of all
    queries; both are the same whatever the matching.
    """

    boxes: Tensor
    classes: Tensor


def block_weights(first: float, num_blocks: int) -> list[float]:
    """Weights of the losses of each block (of the baseline: each layer): they double from `first`
    up to 1, so that what the shared parts learn is more for the last, whose boxes are reported.

    Raises:
        ValueError: `first` is not above 0 and at most 1.
    """
    if not 0 < first <= 1:
        raise ValueError(
            f"MODEL.FLOW_DET.FIRST_BLOCK_WEIGHT must be above 0 and at most 1, got {first}"
        )
    return [min(first * 2**k, 1.0) for k in range(num_blocks)]


class SetCriterion(nn.Module):
    """Cross-entropy over all queries, L1 and GIoU over the matched ones.

    Args:
        num_classes: C; class C is background.
        class_weight, bbox_weight, giou_weight: of the three losses.
        background_weight: of background queries in the cross-entropy.
        quality_targets: a matched query is to be its object's class with the IoU of its box as
            probability, and background with the rest, so that scores rank boxes; the background
            weight is for the other queries alone.

    Raises:
        ValueError: quality targets without a weight of the background.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 1.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        background_weight: float = 0.1,
        quality_targets: bool = False,
    ):
        super().__init__()
        if quality_targets and background_weight <= 0:
            raise ValueError(
                "MODEL.FLOW_DET.QUALITY_TARGETS needs a BACKGROUND_WEIGHT above 0, got "
                f"{background_weight}"
            )
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.bbox_weight = bbox_weight
        self.giou_weight = giou_weight
        self.background_weight = background_weight
        self.quality_targets = quality_targets
        per_class = torch.ones(num_classes + 1)
        per_class[-1] = background_weight
        self.register_buffer("per_class", per_class, persistent=False)

    def normaliser(self, targets: Targets, num_queries: int) -> Normaliser:
        """Computed once per iteration: it takes one reduction over the processes."""
        objects = sum(targets.counts)
        background = len(targets.counts) * num_queries - objects
        values = self.per_class.new_tensor([objects, objects + self.background_weight * background])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= comm.get_world_size()
        return Normaliser(*values.clamp(min=1e-6).unbind())._replace(boxes=values[0].clamp(min=1))

    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Targets,
        assigned: Tensor,
        normaliser: Normaliser,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted losses, and what is worth watching.

        Args:
            logits: [B, M, C + 1].
            boxes: [B, M, 4], normalised cxcywh.
            targets: the objects.
            assigned: object of each query, [B, M]; -1 is background.

        Returns:
            `loss_cls`, `loss_bbox`, `loss_giou`, and `matched_iou`, `class_accuracy` (means
            over the matched queries, without gradient; absent if there are none).
        """
        matched = assigned >= 0
        with_background = F.pad(targets.classes, (0, 1), value=self.num_classes)
        classes = with_background.gather(
            1, assigned.masked_fill(~matched, targets.classes.shape[1])
        )
        image, query = matched.nonzero(as_tuple=True)
        found = boxes[image, query].float()
        wanted = targets.boxes[image, assigned[image, query]]
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (found, wanted)]
        with torch.no_grad():
            iou = torch.diag(box_iou(*corners))
        shares = F.one_hot(classes, self.num_classes + 1).to(self.per_class)
        if self.quality_targets:
            shares[image, query] *= iou[:, None]
            # of weight 1, like the class: else nearly all of it would go to the class
            shares[image, query, -1] = (1 - iou) / self.background_weight
        loss_cls = F.cross_entropy(
            logits.float().transpose(1, 2),
            shares.transpose(1, 2),
            weight=self.per_class,
            reduction="sum",
        )
        losses = {
            "loss_cls": self.class_weight * loss_cls / normaliser.classes,
            "loss_bbox": self.bbox_weight * (found - wanted).abs().sum() / normaliser.boxes,
            "loss_giou": self.giou_weight
            * generalized_box_iou_loss(*corners, reduction="sum")
            / normaliser.boxes,
        }
        if not len(image):
            return losses, {}
        with torch.no_grad():
            right = logits[image, query].argmax(-1) == classes[image, query]
            stats = {
                "matched_iou": iou.mean(),
                "class_accuracy": right.float().mean(),
            }
        return losses, stats

    def extra_repr(self) -> str:
        return (
            f"class={self.class_weight}, bbox={self.bbox_weight}, giou={self.giou_weight}, "
            f"background={self.background_weight}, quality_targets={self.quality_targets}"
        )
