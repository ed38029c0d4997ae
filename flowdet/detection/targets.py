"""Ground truth as padded tensors, and the target embeddings z_1 of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import box_convert


@dataclass(frozen=True)
class Targets:
    """The objects of a batch; object g of image b is real if `g < counts[b]`.

    Attributes:
        classes: [B, G], 0 for padding.
        boxes: [B, G, 4], normalized cxcywh.
        counts: objects per image, one int each.
        dropped: (image in the batch, objects left out) of images with too many objects.
    """

    classes: Tensor
    boxes: Tensor
    counts: list[int]
    dropped: list[tuple[int, int]]

    @staticmethod
    def from_instances(
        instances: Sequence[Instances], max_objects: int, num_classes: int
    ) -> Targets:
        """From detectron2's ground truth (absolute xyxy in the resized image).

        Args:
            instances: with `gt_boxes` and `gt_classes`, one per image.
            max_objects: if an image has more, the largest are kept.
            num_classes: C, to check the labels.

        Raises:
            ValueError: a label outside 0 .. C - 1.
        """
        rows, dropped = [], []
        for i, x in enumerate(instances):
            boxes, classes = x.gt_boxes.tensor, x.gt_classes
            if len(classes) > max_objects:
                dropped.append((i, len(classes) - max_objects))
                keep = x.gt_boxes.area().topk(max_objects).indices.sort().values
                boxes, classes = boxes[keep], classes[keep]
            height, width = x.image_size
            scale = boxes.new_tensor([width, height, width, height])
            rows.append((classes, box_convert(boxes / scale, "xyxy", "cxcywh")))
        counts = [len(classes) for classes, _ in rows]
        pad = nn.utils.rnn.pad_sequence
        targets = Targets(
            pad([c for c, _ in rows], batch_first=True),
            pad([b for _, b in rows], batch_first=True),
            counts,
            dropped,
        )
        labels = targets.classes.flatten()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"a label is {int(labels.min())} or {int(labels.max())}, but the model has classes "
                f"0 to {num_classes - 1}: set MODEL.FLOW_DET.NUM_CLASSES to the dataset's number "
                "of classes (0 takes it from the dataset)"
            )
        return targets


class TargetEmbedding(nn.Module):
    """`z_1 = W_class[c] + W_box b`; background is `W_class[C]` without a box (eq. 2).

    Args:
        num_classes: C.
        dim: d.
        normalize: apply LayerNorm (without parameters), so that all targets have the same norm.
        learned: the losses train the embeddings (the paper); otherwise they keep their initial
            values.
    """

    def __init__(self, num_classes: int, dim: int, normalize: bool = False, learned: bool = True):
        super().__init__()
        self.classes = nn.Embedding(num_classes + 1, dim)
        self.box = nn.Linear(4, dim, bias=False)
        self.normalize = normalize
        self.requires_grad_(learned)

    def forward(self, targets: Targets) -> Tensor:
        """Embeddings of all objects, then that of background: [B, G + 1, d]."""
        objects = self.classes(targets.classes) + self.box(targets.boxes)
        background = self.classes.weight[-1].expand(len(objects), 1, -1)
        z_1 = torch.cat([objects, background.to(objects)], dim=1)
        return F.layer_norm(z_1, z_1.shape[-1:]) if self.normalize else z_1


def gather_targets(embeddings: Tensor, assigned: Tensor) -> Tensor:
    """The target embedding of every query.

    Args:
        embeddings: [B, G + 1, d], background last.
        assigned: object of each query, [B, M]; -1 is background.

    Returns:
        z_1, [B, M, d].
    """
    index = assigned.masked_fill(assigned < 0, embeddings.shape[1] - 1)
    return embeddings.gather(1, index[..., None].expand(-1, -1, embeddings.shape[-1]))


def ordered_assignment(targets: Targets, num_queries: int) -> Tensor:
    """Object g to query g, background to the rest: [B, M], -1 is background."""
    counts = torch.tensor(targets.counts, device=targets.classes.device)[:, None]
    index = torch.arange(num_queries, device=counts.device).expand(len(targets.counts), -1)
    return index.masked_fill(index >= counts, -1)
