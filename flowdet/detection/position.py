"""Positional encodings of image tokens and queries."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowdet.detection.boxes import box_points
from flowdet.detection.transformer_block import QueryPosition
from flowdet.flow import without_gradient


class SinePositionalEncoding(nn.Module):
    """Sine and cosine encoding of points in the unit square: [..., 2] to [..., dim].

    The frequencies are saved with the weights: a model keeps those it was trained with, whatever
    the size of its images later.

    Args:
        dim: of the encoding, a multiple of 4.
        max_frequency: cycles per image of the fastest sine. More than half the number of tokens
            along a side aliases: distant tokens get similar encodings.
    """

    def __init__(self, dim: int, max_frequency: float):
        super().__init__()
        if dim % 4:
            raise ValueError(f"MODEL.FLOW_DET.HIDDEN_DIM must be a multiple of 4, got {dim}")
        # half a cycle over the image tells its two ends apart
        cycles = torch.logspace(math.log10(0.5), math.log10(max_frequency), dim // 4)
        self.register_buffer("frequencies", 2 * math.pi * cycles)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # older checkpoints lack the frequencies: those of the config hold
        state_dict.setdefault(f"{prefix}frequencies", self.frequencies)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, points: Tensor) -> Tensor:
        phase = points.float()[..., None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class QueryPositionalEncoding(nn.Module):
    """Positional encodings of anchored queries, and sample points in their boxes.

    Self-attention uses a learned encoding per query. Cross-attention uses the encoding of the box
    center that the estimate decodes to, plus an MLP of the whole box (box-anchored attention).

    Args:
        encoding: shared with the image tokens.
        dim: d.
        anchors: boxes that initialize the learned encodings, [M, 4], normalized cxcywh.
        decode_boxes: maps estimates [B, M, d] to boxes [B, M, 4], normalized cxcywh. None
            switches box-anchored attention off: both attentions use the learned encoding.
        box_samples: also return a grid of so many sample points per side of the box; 0 for none.
            Needs `decode_boxes`.
    """

    def __init__(
        self,
        encoding: SinePositionalEncoding,
        dim: int,
        anchors: Tensor,
        decode_boxes: Callable[[Tensor], Tensor] | None,
        box_samples: int = 0,
    ):
        super().__init__()
        self.encoding = encoding
        self.own = nn.Parameter(encoding(anchors[:, :2]))
        self.decode_boxes = decode_boxes
        self.box_samples = box_samples
        if decode_boxes is not None:
            self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, estimate: Tensor | None) -> QueryPosition:
        """Positions of the queries with the estimate [B, M, d]."""
        if self.decode_boxes is None:
            return QueryPosition(self.own, self.own)
        with without_gradient():
            boxes = self.decode_boxes(estimate)
        center, size = self.encoding(boxes[..., :2]), self.encoding(boxes[..., 2:])
        cross = center + self.mlp(torch.cat([center, size], dim=-1))
        if not self.box_samples:
            return QueryPosition(self.own, cross)
        return QueryPosition(self.own, cross, box_points(boxes, self.box_samples))
