"""Position codes: where a token lies, and where a query looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowdet.flow import QueryPosition, without_gradient


class SineCode(nn.Module):
    """sin/cos code of points in the unit square: [..., 2] to [..., dim].

    Args:
        dim: of the code, a multiple of 4.
        max_frequency: cycles per image of the fastest pair. More than half the number of
            tokens along a side aliases: distant tokens get like codes.
    """

    def __init__(self, dim: int, max_frequency: float):
        super().__init__()
        if dim % 4:
            raise ValueError(f"MODEL.FLOW_DET.HIDDEN_DIM must be a multiple of 4, got {dim}")
        # half a cycle over the image tells the two ends apart
        cycles = torch.logspace(math.log10(0.5), math.log10(max_frequency), dim // 4)
        self.register_buffer("frequencies", 2 * math.pi * cycles, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        phase = points.float()[..., None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class QueryPositions(nn.Module):
    """Where the queries are: their position codes, and points in their boxes.

    In self-attention a learned code per query; in cross-attention the code of the centre of
    the box that the estimate decodes to, plus an MLP of the whole box (box-anchored
    attention), so that a query looks at where its box is.

    Args:
        code: shared with the image tokens.
        dim: d.
        anchors: boxes on which the learned codes start, [M, 4], normalised cxcywh.
        decode_boxes: maps estimates [B, M, d] to boxes [B, M, 4], normalised cxcywh. None
            switches box-anchored attention off: the learned code serves both attentions.
        box_samples: also read the feature maps at so many points along each side of the box; 0 for
            none. Needs `decode_boxes`.
    """

    def __init__(
        self,
        code: SineCode,
        dim: int,
        anchors: Tensor,
        decode_boxes: Callable[[Tensor], Tensor] | None,
        box_samples: int = 0,
    ):
        super().__init__()
        self.code = code
        self.own = nn.Parameter(code(anchors[:, :2]))
        self.decode_boxes = decode_boxes
        self.box_samples = box_samples
        if decode_boxes is not None:
            self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, estimate: Tensor | None) -> QueryPosition:
        if self.decode_boxes is None:
            return QueryPosition(self.own, self.own)
        with without_gradient():
            boxes = self.decode_boxes(estimate)
        centre, size = self.code(boxes[..., :2]), self.code(boxes[..., 2:])
        cross = centre + self.mlp(torch.cat([centre, size], dim=-1))
        if not self.box_samples:
            return QueryPosition(self.own, cross)
        return QueryPosition(self.own, cross, box_points(boxes, self.box_samples))


def box_points(boxes: Tensor, count: int) -> Tensor:
    """`count` x `count` points spread over boxes, the outer ones on their edges.

    Args:
        boxes: [..., 4], normalised cxcywh.

    Returns:
        (x, y) in units of the image, [..., count * count, 2], row by row.
    """
    steps = torch.linspace(-0.5, 0.5, count, device=boxes.device)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    return boxes[..., None, :2] + offsets * boxes[..., None, 2:]
