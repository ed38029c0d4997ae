"""Denoising queries: further queries of a training step, whose boxes lie near the objects.

A set detector has one positive query per object. Denoising queries add many: each takes the
estimate of another query and moves its box to a perturbed box of an object, or to a proposal. So
every block is trained to classify and to correct boxes with errors of different sizes. DN-DETR (Li
et al., CVPR 2022) has the idea for the first layer of a decoder. Proposals are the boxes that a
two-stage detector trains on: errors that a network makes, and background that looks like an object.
Inference has no denoising queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert

from flowdet.detection.boxes import to_corners
from flowdet.detection.criterion import LossNormalizer, SetCriterion
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.targets import Targets, nearest_objects
from flowdet.flow import FlowState, without_gradient
from flowdet.flow.path import expand_time

# smallest side of a perturbed box, as a fraction of the image's side
_SMALLEST_SIDE = 0.01


@dataclass(frozen=True)
class DenoisingSettings:
    """How denoising queries are made.

    Attributes:
        count: number of denoising queries per image at perturbed boxes.
        proposals: number of denoising queries per image at proposals. Every block draws its own.
            There are Q = count + proposals denoising queries.
        noise: each query draws its noise level s from [0, noise]. The center of the object's box is
            moved by s / 2 standard deviations of its size, and the logarithm of each side by s.
        min_iou: the target of a denoising query is the object with which its box has the largest
            IoU, if that is at least `min_iou`; otherwise it is background.
        weight: weight of their losses, relative to those of the other queries.

    Raises:
        ValueError: a value is out of its range; the message names the config key.
    """

    count: int = 0
    proposals: int = 0
    noise: float = 0.6
    min_iou: float = 0.4
    weight: float = 1.0

    def __post_init__(self):
        key = "MODEL.FLOW_DET.DENOISING"
        if self.count < 0:
            raise ValueError(f"{key}_QUERIES must not be negative, got {self.count}")
        if self.proposals < 0:
            raise ValueError(
                f"MODEL.FLOW_DET.PROPOSAL_QUERIES must not be negative, got {self.proposals}"
            )
        if self.noise <= 0:
            raise ValueError(f"{key}_NOISE must be above 0, got {self.noise}")
        if not 0 < self.min_iou <= 1:
            raise ValueError(f"{key}_MIN_IOU must be above 0 and at most 1, got {self.min_iou}")
        if self.weight <= 0:
            raise ValueError(
                f"{key}_WEIGHT must be above 0, got {self.weight}: set {key}_QUERIES and "
                "PROPOSAL_QUERIES 0 to train without denoising queries"
            )


class DenoisingQueries(NamedTuple):
    """The denoising queries of a batch.

    Attributes:
        donors: index of the query whose estimate each of them takes, [B, Q].
        estimate: that estimate, moved to its own box, [B, Q, d].
        assigned: index of the object of each of them in `Targets.complete`, [B, Q]; -1 is
            background.
    """

    donors: Tensor
    estimate: Tensor
    assigned: Tensor


class Denoising:
    """Makes the denoising queries of a detector, and computes their losses.

    Args:
        settings: how they are made.
        heads: decode and move estimates.
        criterion: computes the losses.
    """

    def __init__(self, settings: DenoisingSettings, heads: DetectionHeads, criterion: SetCriterion):
        self.settings = settings
        self.heads = heads
        self.criterion = criterion

    def queries(
        self, estimate: Tensor, targets: Targets, proposals: Tensor | None = None
    ) -> DenoisingQueries:
        """Makes the denoising queries of a batch.

        They pass no gradient to the estimates.

        Args:
            estimate: the estimates of the queries, [B, M, d].
            targets: the objects. Those that are dropped for one-to-one matching are used too.
            proposals: boxes, [B, P, 4], normalized cxcywh. Without them there are only the queries
                at perturbed boxes.
        """
        targets = targets.complete
        with without_gradient():
            boxes = perturbed_boxes(targets, self.settings.count, self.settings.noise)
            if proposals is not None:
                boxes = torch.cat([boxes, drawn_boxes(proposals, self.settings.proposals)], dim=1)
            num_queries = estimate.shape[1]
            donors = torch.randint(num_queries, boxes.shape[:2], device=estimate.device)
            taken = gather_rows(estimate, donors)
            moved = self.heads.move(taken, boxes.to(taken.device))
            # the boxes that the blocks see; moving is exact only for the linear box head
            assigned = assign_by_iou(self.heads.boxes(moved), targets, self.settings.min_iou)
        return DenoisingQueries(donors, moved, assigned)

    def extend(
        self, state: FlowState, targets: Targets, proposals: Tensor | None = None
    ) -> tuple[FlowState, Tensor]:
        """Appends denoising queries to a state of the flow; for the arguments see `queries`.

        Their z_t is the donor's, moved by t times the change of the estimate: the point at time t
        on the path that leads to the moved estimate.

        Returns:
            The state of all M + Q queries, and the `assigned` of the denoising queries.
        """
        donors, moved, assigned = self.queries(state.estimate, targets, proposals)
        change = moved - gather_rows(state.estimate.detach(), donors)
        z = gather_rows(state.z, donors) + expand_time(state.t, change) * change
        return (
            replace(
                state,
                z=torch.cat([state.z, z], dim=1),
                estimate=torch.cat([state.estimate, moved], dim=1),
                z_0=None,
            ),
            assigned,
        )

    def losses(
        self, logits: Tensor, boxes: Tensor, targets: Targets, assigned: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Computes the weighted losses of the denoising queries, and statistics for the log.

        The losses are divided by the number of denoising queries, which is the same in all
        processes.

        Args:
            logits: [B, Q, C + 1].
            boxes: [B, Q, 4], normalized cxcywh.
            targets: the objects.
            assigned: index of the object of each query in `targets.complete`, [B, Q]; -1 is
                background.
        """
        count = boxes.new_tensor(float(assigned.numel()))
        normalizer = LossNormalizer(boxes=count, classes=count)
        losses, statistics = self.criterion(logits, boxes, targets.complete, assigned, normalizer)
        losses = {name: self.settings.weight * loss for name, loss in losses.items()}
        return losses, {f"denoising_{name}": value for name, value in statistics.items()}


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Returns the rows `index` [B, Q] of x [B, M, d], [B, Q, d]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def perturbed_boxes(targets: Targets, count: int, noise: float) -> Tensor:
    """Draws `count` perturbed boxes of random objects per image; see `DenoisingSettings`.

    In an image without objects the boxes of half the image's size in its center are perturbed.

    Returns:
        Boxes inside the image, [B, count, 4], normalized cxcywh.
    """
    batch, device = len(targets.counts), targets.boxes.device
    boxes = targets.boxes.new_full((batch, count, 4), 0.5)
    counts = targets.lengths[:, None]
    if targets.boxes.shape[1]:
        chosen = (torch.rand(batch, count, device=device) * counts).long()
        boxes = torch.where((counts > 0)[..., None], gather_rows(targets.boxes, chosen), boxes)
    level = noise * torch.rand(batch, count, 1, device=device)
    shift, stretch = (level * torch.randn(2, batch, count, 2, device=device)).unbind(0)
    center = boxes[..., :2] + shift * boxes[..., 2:] / 2
    size = boxes[..., 2:] * stretch.exp()
    inside = to_corners(torch.cat([center, size], dim=-1)).clamp(0, 1)
    center, size = box_convert(inside, "xyxy", "cxcywh").split(2, dim=-1)
    return torch.cat([center, size.clamp(min=_SMALLEST_SIDE)], dim=-1)


def drawn_boxes(boxes: Tensor, count: int) -> Tensor:
    """Draws `count` of the boxes [B, P, 4] (normalized cxcywh) of every image, [B, count, 4].

    A box is drawn again only when all others are drawn. Sides are at least as large as those of
    perturbed boxes.
    """
    batch, available = boxes.shape[:2]
    order = torch.rand(batch, available, device=boxes.device).argsort(dim=1)
    index = order[:, torch.arange(count, device=boxes.device) % available]
    center, size = gather_rows(boxes, index).split(2, dim=-1)
    return torch.cat([center, size.clamp(min=_SMALLEST_SIDE)], dim=-1)


def assign_by_iou(boxes: Tensor, targets: Targets, min_iou: float) -> Tensor:
    """Assigns every box to the object with which it has the largest IoU.

    Args:
        boxes: [B, Q, 4], normalized cxcywh.
        targets: the objects.
        min_iou: smallest IoU of a box with its object.

    Returns:
        The index of the object of each box, [B, Q]; -1 is background.
    """
    iou, index = nearest_objects(boxes, targets)
    return torch.where(iou >= min_iou, index, -1)
