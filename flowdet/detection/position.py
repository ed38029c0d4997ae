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

    The frequencies are saved with the weights. So a model keeps the frequencies that it was trained
    with, even if it is used with images of another size.

    Args:
        dim: dimension of the encoding, a multiple of 4.
        max_frequency: frequency of the fastest sine, in cycles per image. A frequency above half
            the number of tokens along a side would alias: distant tokens get similar encodings.

    Raises:
        ValueError: `dim` is not a multiple of 4.
    """

    def __init__(self, dim: int, max_frequency: float):
        super().__init__()
        if dim % 4:
            raise ValueError(f"MODEL.FLOW_DET.HIDDEN_DIM must be a multiple of 4, got {dim}")
        # the slowest sine has half a cycle per image: it distinguishes the two ends of a side
        cycles = torch.logspace(math.log10(0.5), math.log10(max_frequency), dim // 4)
        self.register_buffer("frequencies", 2 * math.pi * cycles)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # older checkpoints do not contain the frequencies: the values from the config stay
        state_dict.setdefault(f"{prefix}frequencies", self.frequencies)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, points: Tensor) -> Tensor:
        phase = points.float()[..., None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class QueryPositionalEncoding(nn.Module):
    """Positional encodings of anchored queries, and sample points in their boxes.

    Self-attention uses a learned encoding per query. Cross-attention uses the box that the estimate
    decodes to (box-anchored attention): the encoding of its center, plus an MLP of the encodings of
    center and size.

    Args:
        encoding: the positional encoding of the image tokens.
        dim: d.
        anchors: boxes whose centers initialize the learned encodings, [M, 4], normalized cxcywh.
        decode_boxes: maps estimates [B, M, d] to boxes [B, M, 4], normalized cxcywh. None turns
            box-anchored attention off: both attentions use the learned encoding.
        box_samples: number of sample points per side of a box; 0 for none. It needs `decode_boxes`.
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
        """Computes encodings and points from the estimate [B, M, d], which gets no gradient.

        Queries after the first M are denoising queries. Their own encoding is that of the center of
        their box. No other query attends to them.
        """
        if self.decode_boxes is None:
            return QueryPosition(self.own, self.own)
        with without_gradient():
            boxes = self.decode_boxes(estimate)
        # center and size
        encoded = self.encoding(boxes.unflatten(-1, (2, 2))).flatten(-2)
        center = encoded[..., : encoded.shape[-1] // 2]
        own, mask = self._with_denoising_queries(center)
        cross = center + self.mlp(encoded)
        if not self.box_samples:
            return QueryPosition(own, cross, mask=mask)
        return QueryPosition(own, cross, box_points(boxes, self.box_samples), mask)

    def _with_denoising_queries(self, center: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the own encodings and the attention mask of all queries."""
        num_queries, total = len(self.own), center.shape[1]
        if total == num_queries:
            return self.own, None
        own = self.own.expand(len(center), -1, -1)
        mask = torch.zeros(total, total, dtype=torch.bool, device=center.device)
        mask[:, num_queries:] = True
        return torch.cat([own, center[:, num_queries:]], dim=1), mask.fill_diagonal_(False)
