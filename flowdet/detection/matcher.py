"""Hungarian matching of queries and objects."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from flowdet.detection.boxes import paired_iou_and_giou, to_corners
from flowdet.detection.targets import Targets
from flowdet.flow import NonFiniteError


def solve_assignment(costs: Tensor, counts: list[int] | None = None) -> Tensor:
    """Solves one assignment problem per batch element.

    Args:
        costs: [B, M, G].
        counts: number of columns of each batch element without padding; None if there is no
            padding.

    Returns:
        The column of every row, [B, M]; -1 for rows without a column.

    Raises:
        NonFiniteError: a cost is not finite.
    """
    # only training needs it, and its import takes 0.3 s
    from scipy.optimize import linear_sum_assignment

    # a single copy to the host, and one back
    on_host = costs.detach().float().cpu().numpy()
    if not np.isfinite(on_host).all():
        raise NonFiniteError(
            "matching costs are not finite: the predictions contain NaN or inf. Usually the "
            "training diverged (lower SOLVER.BASE_LR or turn SOLVER.CLIP_GRADIENTS on), or "
            "an image or a box of the batch is corrupt"
        )
    assigned = np.full(on_host.shape[:2], -1)
    for i, cost in enumerate(on_host):
        # padded targets are excluded from the assignment
        row, column = linear_sum_assignment(cost[:, : None if counts is None else counts[i]])
        assigned[i, row] = column
    return torch.from_numpy(assigned).to(costs.device)


class HungarianMatcher(nn.Module):
    """One-to-one matching of queries and objects with minimal total cost (A.1.2, D.1).

    `cost = -class_weight * p(class) + bbox_weight * L1 + giou_weight * (-GIoU)`, in float32.

    Args:
        class_weight: weight of the class probability.
        bbox_weight: weight of the L1 distance of the boxes (normalized cxcywh).
        giou_weight: weight of the generalized IoU.

    Raises:
        ValueError: all weights are 0.
    """

    def __init__(self, class_weight: float, bbox_weight: float, giou_weight: float):
        super().__init__()
        if not (class_weight or bbox_weight or giou_weight):
            raise ValueError("a matcher needs at least one weight that is not 0")
        self.class_weight = class_weight
        self.bbox_weight = bbox_weight
        self.giou_weight = giou_weight

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Matches the queries and objects of a batch.

        Args:
            logits: [B, M, C + 1].
            boxes: [B, M, 4], normalized cxcywh.
            targets: the objects, at most M per image.

        Returns:
            The index of the object of each query, [B, M]; -1 is background.

        Raises:
            ValueError: a prediction is NaN or inf.
        """
        with torch.autocast(logits.device.type, enabled=False):
            costs = self.costs(logits.float(), boxes.float(), targets)
        return solve_assignment(costs, targets.counts)

    def costs(self, logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
        """Returns the costs of all pairs of a query and an object, [B, M, G]."""
        classes = targets.classes[:, None].expand(-1, logits.shape[1], -1)
        probability = logits.softmax(-1).gather(2, classes)
        _, giou = paired_iou_and_giou(to_corners(boxes)[:, :, None], targets.corners[:, None])
        distance = torch.cdist(boxes, targets.boxes, p=1)
        return (
            self.bbox_weight * distance - self.class_weight * probability - self.giou_weight * giou
        )

    def extra_repr(self) -> str:
        return f"class={self.class_weight}, bbox={self.bbox_weight}, giou={self.giou_weight}"
