"""The flow block of a detector: a pre-norm DETR decoder layer on z_t and t (3.2.2, D.1).

Flow blocks are called as `block(z_t, time_embedding, features, estimate, position)` and return one
vector per query. `FlowEnsemble` interprets it as a velocity or as a correction of the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowdet.detection.tokens import ImageTokens, PointReader
from flowdet.flow import StateInput


@dataclass(frozen=True)
class QueryPosition:
    """Positional encodings and sample points of the queries; None for what a model does not use.

    Attributes:
        own: positional encoding for self-attention, [B, M, d] or [M, d].
        cross: positional encoding for cross-attention, [B, M, d] or [M, d].
        points: points at which a query samples the feature maps, (x, y) in normalized image
            coordinates, [B, M, P, 2].
        mask: queries that a query does not attend to are True, [M, M].
    """

    own: Tensor | None = None
    cross: Tensor | None = None
    points: Tensor | None = None
    mask: Tensor | None = None


def _add_position(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class TransformerFlowBlock(nn.Module):
    """Self-attention among queries, cross-attention to image tokens, box samples, feed-forward.

    It is a pre-norm layer: the residual stream inside a block is never normalized.

    Args:
        dim: dimension d of queries and tokens.
        num_heads: number of attention heads.
        feedforward_dim: hidden units of the feed-forward part.
        dropout: dropout probability in attention and feed-forward.
        self_conditioned: see `StateInput`.
        tie_position: initialize the key projection of the cross-attention with the query
            projection. From the first iteration on, a query then attends to the tokens whose
            positional encoding is similar to its own.
        num_points: P of `QueryPosition.points` times the number of feature maps; 0 turns box
            samples off.
        sample_channels, sample_hidden_dim: `channels` and `hidden_dim` of `PointReader`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        feedforward_dim: int = 512,
        dropout: float = 0.0,
        self_conditioned: bool = False,
        tie_position: bool = False,
        num_points: int = 0,
        sample_channels: int = 0,
        sample_hidden_dim: int = 0,
    ):
        super().__init__()
        self.input = StateInput(dim, self_conditioned)
        self.point_reader = None
        if num_points:
            self.point_reader = PointReader(dim, num_points, sample_channels, sample_hidden_dim)
        self.self_attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, dim),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.output = nn.Linear(dim, dim)
        if tie_position:
            with torch.no_grad():
                query, key, _ = self.cross_attention.in_proj_weight.chunk(3)
                key.copy_(query)

    def forward(
        self,
        z_t: Tensor,
        time_embedding: Tensor,
        features: ImageTokens,
        estimate: Tensor | None = None,
        position: QueryPosition | None = None,
    ) -> Tensor:
        """Maps states and estimates [B, M, d] and time embeddings [B, d] to [B, M, d]."""
        position = position or QueryPosition()
        h = self.input(z_t, time_embedding, estimate)
        x = self.norms[0](h)
        query = _add_position(x, position.own)
        h = h + self.self_attention(query, query, x, need_weights=False, attn_mask=position.mask)[0]
        attended, _ = self.cross_attention(
            _add_position(self.norms[1](h), position.cross),
            _add_position(features.tokens, features.position),
            features.tokens,
            key_padding_mask=features.padding,
            need_weights=False,
        )
        h = h + attended
        if self.point_reader is not None:
            h = h + self.point_reader(features, position.points)
        h = h + self.feedforward(self.norms[2](h))
        return self.output(self.norms[3](h))
