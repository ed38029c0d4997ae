"""Positional encodings of queries that are boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowdet.detection.boxes import box_points
from flowdet.detection.position import SinePositionalEncoding
from flowdet.detection.transformer_block import QueryPosition


class BoxQueryPosition(nn.Module):
    """Computes positional encodings and sample points from boxes alone.

    Nothing is learned for a particular query, because the boxes of a box path are exchangeable.
    Both attentions use the encoding of a box's center, plus an MLP of the encodings of center and
    size.

    Args:
        encoding: the positional encoding of the image tokens.
        dim: d.
        box_samples: number of sample points per side of a box; 0 for none.
    """

    def __init__(self, encoding: SinePositionalEncoding, dim: int, box_samples: int):
        super().__init__()
        self.encoding = encoding
        self.box_samples = box_samples
        self.mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, boxes: Tensor) -> QueryPosition:
        """Maps boxes [B, M, 4], normalized cxcywh, to their encodings and sample points."""
        center, size = self.encoding(boxes[..., :2]), self.encoding(boxes[..., 2:])
        code = center + self.mlp(torch.cat([center, size], dim=-1))
        points = box_points(boxes, self.box_samples) if self.box_samples else None
        return QueryPosition(code, code, points)
