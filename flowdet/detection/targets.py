"""Ground truth as padded tensors, and the target embeddings z_1 of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from flowdet.detection.boxes import paired_iou, to_corners


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to G per image.

    The first `counts[b]` of image b are objects, the others are padding.

    Attributes:
        classes: [B, G], 0 for padding.
        boxes: [B, G, 4], normalized cxcywh.
        counts: number of objects of each image.
        dropped: (index in the batch, number of dropped objects) of each image with too many
            objects.
        undropped: the targets with all objects, if some are dropped.
    """

    classes: Tensor
    boxes: Tensor
    counts: list[int]
    dropped: list[tuple[int, int]]
    undropped: Targets | None = None

    @property
    def complete(self) -> Targets:
        """The targets with all objects, also those that are dropped for one-to-one matching."""
        return self if self.undropped is None else self.undropped

    @cached_property
    def corners(self) -> Tensor:
        """The boxes as normalized xyxy, [B, G, 4]."""
        return to_corners(self.boxes)

    @cached_property
    def lengths(self) -> Tensor:
        """`counts` on the device of the boxes, [B]."""
        return torch.tensor(self.counts, device=self.boxes.device)

    @cached_property
    def padding(self) -> Tensor:
        """True for padding, [B, G]."""
        index = torch.arange(self.boxes.shape[1], device=self.boxes.device)
        return index >= self.lengths[:, None]

    def to(self, device: torch.device) -> Targets:
        """Returns the targets on another device."""
        undropped = self.undropped and self.undropped.to(device)
        classes, boxes = self.classes.to(device), self.boxes.to(device)
        return replace(self, classes=classes, boxes=boxes, undropped=undropped)

    @staticmethod
    def from_instances(
        instances: Sequence[Instances], max_objects: int, num_classes: int
    ) -> Targets:
        """Converts detectron2's ground truth.

        Args:
            instances: one per image, with `gt_boxes` (absolute xyxy in the resized image) and
                `gt_classes`.
            max_objects: if an image has more objects, the largest are kept. The attribute
                `undropped` has all objects.
            num_classes: C, to check the labels.

        Raises:
            ValueError: a label is outside 0 to C - 1.
        """
        targets = _padded(instances)
        _check_labels(targets.classes.flatten(), num_classes)
        kept, dropped = [], []
        for i, x in enumerate(instances):
            if len(x) > max_objects:
                dropped.append((i, len(x) - max_objects))
                x = x[x.gt_boxes.area().topk(max_objects).indices.sort().values]
            kept.append(x)
        if not dropped:
            return targets
        return replace(_padded(kept), dropped=dropped, undropped=targets)


def _padded(instances: Sequence[Instances]) -> Targets:
    """Returns all objects of detectron2's ground truth."""
    rows = []
    for x in instances:
        height, width = x.image_size
        scale = x.gt_boxes.tensor.new_tensor([width, height, width, height])
        boxes = box_convert(x.gt_boxes.tensor / scale, "xyxy", "cxcywh")
        rows.append((x.gt_classes, boxes))
    pad = nn.utils.rnn.pad_sequence
    return Targets(
        pad([c for c, _ in rows], batch_first=True),
        pad([b for _, b in rows], batch_first=True),
        [len(classes) for classes, _ in rows],
        [],
    )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Raises ValueError if a label is outside 0 to C - 1."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(
            f"an object has label {int(wrong)}, but the model has classes 0 to "
            f"{num_classes - 1}: set MODEL.FLOW_DET.NUM_CLASSES to the dataset's number of "
            "classes (0 takes it from the dataset)"
        )


def nearest_objects(boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Finds the object of the same image with which each box has the largest IoU.

    Args:
        boxes: [B, Q, 4], normalized cxcywh.
        targets: the objects.

    Returns:
        The IoU, [B, Q], without gradient, and the index of the object, [B, Q]. Both are 0 in an
        image without objects.
    """
    if not any(targets.counts):
        return boxes.new_zeros(boxes.shape[:2]), boxes.new_zeros(boxes.shape[:2], dtype=torch.long)
    with torch.no_grad():
        iou = paired_iou(to_corners(boxes.float())[:, :, None], targets.corners[:, None])
        return iou.masked_fill(targets.padding[:, None], 0.0).max(dim=-1)


class TargetEmbedding(nn.Module):
    """`z_1 = W_class[c] + W_box b`; background is `W_class[C]` without a box (eq. 2).

    Args:
        num_classes: C.
        dim: d.
        normalize: apply LayerNorm without parameters, so that all targets have the same norm.
        learned: whether the losses train the embeddings (as in the paper); otherwise they keep
            their initial values.
    """

    def __init__(self, num_classes: int, dim: int, normalize: bool = False, learned: bool = True):
        super().__init__()
        self.classes = nn.Embedding(num_classes + 1, dim)
        self.box = nn.Linear(4, dim, bias=False)
        self.normalize = normalize
        self.requires_grad_(learned)

    def forward(self, targets: Targets) -> Tensor:
        """Returns the embeddings of all objects, then the background embedding: [B, G + 1, d]."""
        objects = self.classes(targets.classes) + self.box(targets.boxes)
        background = self.classes.weight[-1].expand(len(objects), 1, -1)
        z_1 = torch.cat([objects, background.to(objects)], dim=1)
        return F.layer_norm(z_1, z_1.shape[-1:]) if self.normalize else z_1


def gather_targets(embeddings: Tensor, assigned: Tensor) -> Tensor:
    """Returns the target embedding z_1 of every query, [B, M, d].

    Args:
        embeddings: [B, G + 1, d], background last.
        assigned: index of the object of each query, [B, M]; -1 is background.
    """
    index = assigned.masked_fill(assigned < 0, embeddings.shape[1] - 1)
    return embeddings.gather(1, index[..., None].expand(-1, -1, embeddings.shape[-1]))


def ordered_assignment(targets: Targets, num_queries: int) -> Tensor:
    """Assigns object g to query g, and background (-1) to the other queries: [B, M]."""
    index = torch.arange(num_queries, device=targets.boxes.device).expand(len(targets.counts), -1)
    return index.masked_fill(index >= targets.lengths[:, None], -1)
