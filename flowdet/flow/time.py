"""How the time t of a training state is drawn, and how a block is told about it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TIME_DISTRIBUTIONS = ("uniform", "interval")


def draw_time(
    batch: int,
    distribution: str = "uniform",
    *,
    block: int = 0,
    num_blocks: int = 1,
    zero_share: float = 0.0,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one time per batch element, [B], in [0, 1).

    Args:
        batch: B.
        distribution: `uniform` over [0, 1) (Algorithm 1), or `interval`: uniform over
            [block / num_blocks, (block + 1) / num_blocks), the part of the path that the
            block (counted from 0) serves in multi-step inference (eq. 24).
        zero_share: probability that t is 0 instead, the time at which single-step and
            ensemble inference ask.

    Raises:
        ValueError: an unknown distribution.
    """
    if distribution not in TIME_DISTRIBUTIONS:
        raise ValueError(f"unknown time distribution {distribution!r}: use {TIME_DISTRIBUTIONS}")
    t, coin = torch.rand(2, batch, generator=generator, device=device)
    if distribution == "interval":
        t = (block + t) / num_blocks
    return t.masked_fill(coin < zero_share, 0.0)


class TimeEmbedding(nn.Module):
    """Scalar times [B] to codes [B, d]: sin/cos features, then a two-layer MLP (eq. 6).

    Args:
        dim: d, even.
        max_frequency: of the fastest sin/cos pair, in radians per unit of t.
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
