"""The embedding of the time t, an input of the blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Embeds times [B] as [B, d]: sin/cos features, then a two-layer MLP (eq. 6).

    Args:
        dim: d, an even number.
        max_frequency: frequency of the fastest sin/cos pair, in radians per unit of t.

    Raises:
        ValueError: `dim` is odd.
    """

    def __init__(self, dim: int, max_frequency: float = 100.0):
        super().__init__()
        if dim % 2:
            raise ValueError(f"the time embedding needs an even dimension, got {dim}")
        frequencies = torch.logspace(0, math.log10(max_frequency), dim // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        phase = t.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=1))
