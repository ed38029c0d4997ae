"""The prediction heads, which all flow blocks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import MLP

BOX_HEADS = ("linear", "mlp")
# steps in which `DetectionHeads.move` approximates the MLP head
_MOVE_STEPS = 4


class DetectionHeads(nn.Module):
    """Decodes query embeddings into class logits and boxes (A.3.4).

    Args:
        dim: d.
        num_classes: C; the logits have C + 1 columns, background last.
        box_head: `linear` (the paper), or `mlp`: the linear head plus a two-layer perceptron whose
            output is 0 at initialization.

    Raises:
        ValueError: unknown box head.
    """

    def __init__(self, dim: int, num_classes: int, box_head: str = "linear"):
        super().__init__()
        if box_head not in BOX_HEADS:
            raise ValueError(
                f"unknown MODEL.FLOW_DET.BOX_HEAD {box_head!r}: use one of {BOX_HEADS}"
            )
        self.classes = nn.Linear(dim, num_classes + 1)
        self.box = nn.Linear(dim, 4)
        self.box_mlp = MLP(dim, [dim, 4]) if box_head == "mlp" else None
        if self.box_mlp is not None:
            nn.init.zeros_(self.box_mlp[-2].weight)
            nn.init.zeros_(self.box_mlp[-2].bias)

    def boxes(self, z: Tensor) -> Tensor:
        """Decodes embeddings [..., d] to boxes [..., 4], normalized cxcywh."""
        return self.raw_boxes(z).sigmoid()

    def raw_boxes(self, z: Tensor) -> Tensor:
        """Returns the logits of the boxes of embeddings [..., d], [..., 4]."""
        raw = self.box(z) if self.box_mlp is None else self.box(z) + self.box_mlp(z)
        return raw.float()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes embeddings [..., d] to logits [..., C + 1] and boxes [..., 4].

        The boxes are normalized cxcywh.
        """
        return self.classes(z).float(), self.boxes(z)

    @torch.no_grad()
    def move(self, z: Tensor, boxes: Tensor) -> Tensor:
        """Returns embeddings near `z` that decode to other boxes, with the least change.

        This is exact for the linear head. For the MLP head the result is approximate: a fixed
        number of steps corrects the boxes that the previous step led to.

        Args:
            z: embeddings, [..., d].
            boxes: [..., 4], normalized cxcywh.
        """
        target = torch.logit(boxes.float(), eps=1e-4)
        inverse = torch.linalg.pinv(self.box.weight.float()).T
        for _ in range(1 if self.box_mlp is None else _MOVE_STEPS):
            z = z + (target - self.raw_boxes(z)) @ inverse
        return z

    @torch.no_grad()
    def embed(self, boxes: Tensor) -> Tensor:
        """Returns the embeddings of least norm that the linear box head decodes to `boxes`.

        Args:
            boxes: [M, 4], normalized cxcywh.

        Returns:
            Embeddings [M, d].
        """
        raw = torch.logit(boxes, eps=1e-4) - self.box.bias
        return raw @ torch.linalg.pinv(self.box.weight).T
