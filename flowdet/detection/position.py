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
    """Position codes of the queries.

    In self-attention a learned code per query; in cross-attention the code of the centre of
    the box that the estimate decodes to, plus an MLP of the whole box (box-anchored
    attention), so that a query looks at where its box is.

    Args:
        code: shared with the image tokens.
        dim: d.
        anchors: boxes on which the learned codes start, [M, 4], normalised cxcywh.
        decode_boxes: maps estimates [B, M, d] to boxes [B, M, 4], normalised cxcywh. None
            switches box-anchored attention off: the learned code serves both attentions.
    """

    def __init__(
        self,
        code: SineCode,
        dim: int,
        anchors: Tensor,
        decode_boxes: Callable[[Tensor], Tensor] | None,
    ):
        super().__init__()
        self.code = code
        self.own = nn.Parameter(code(anchors[:, :2]))
        self.decode_boxes = decode_boxes
        if decode_boxes is not None:
            self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, estimate: Tensor | None) -> QueryPosition:
        if self.decode_boxes is None:
            return QueryPosition(self.own, self.own)
        with without_gradient():
            boxes = self.decode_boxes(estimate)
        centre, size = self.code(boxes[..., :2]), self.code(boxes[..., 2:])
        return QueryPosition(self.own, centre + self.mlp(torch.cat([centre, size], dim=-1)))
