"""The flow block of a detector: a pre-norm DETR decoder layer on z_t and t (3.2.2, D.1).

Flow blocks are called as `block(z_t, time_embedding, features, estimate, position)` and return one
vector per query. `FlowEnsemble` interprets it as a velocity or as a correction of the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowdet.detection.attention import KeysValues, attend, project_keys_values, self_attend
from flowdet.detection.tokens import ImageTokens, PointReader, TokenGrid
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


@dataclass(frozen=True)
class PreparedTokens:
    """What a block computes from the image tokens alone, once for each image.

    Attributes:
        context: keys and values of the cross-attention.
        narrowed: the tokens that the box samples are taken from, [B, N, c]; None without them.
        grids: the grids of the feature maps.
    """

    context: KeysValues
    narrowed: Tensor | None
    grids: tuple[TokenGrid, ...]

    def __getitem__(self, index: Tensor) -> PreparedTokens:
        """Returns the prepared tokens of the images `index`."""
        grids = tuple(grid.rows(index) for grid in self.grids)
        narrowed = None if self.narrowed is None else self.narrowed[index]
        return PreparedTokens(self.context.rows(index), narrowed, grids)


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

    def prepare(self, features: ImageTokens) -> PreparedTokens:
        """Computes what does not depend on the state: a solver calls the block several times."""
        context = project_keys_values(
            self.cross_attention,
            _add_position(features.tokens, features.position),
            features.tokens,
            features.padding,
        )
        reader = self.point_reader
        narrowed = None if reader is None else reader.narrow(features.tokens)
        return PreparedTokens(context, narrowed, features.grids)

    def forward(
        self,
        z_t: Tensor,
        time_embedding: Tensor,
        features: ImageTokens | PreparedTokens,
        estimate: Tensor | None = None,
        position: QueryPosition | None = None,
    ) -> Tensor:
        """Evaluates the block.

        Args:
            z_t, estimate: states and estimates, [B * S, M, d]: S for each image, which follow each
                other.
            time_embedding: [B * S, d].
            features: the tokens of B images, or what `prepare` returned for them.
            position: positional encodings and sample points of the queries.

        Returns:
            One vector per query, [B * S, M, d].
        """
        prepared = self.prepare(features) if isinstance(features, ImageTokens) else features
        position = position or QueryPosition()
        h = self.input(z_t, time_embedding, estimate)
        x = self.norms[0](h)
        query = _add_position(x, position.own)
        h = h + self_attend(self.self_attention, query, x, position.mask)
        query = _add_position(self.norms[1](h), position.cross)
        h = h + attend(self.cross_attention, query, prepared.context)
        if self.point_reader is not None:
            h = h + self.point_reader(prepared.narrowed, prepared.grids, position.points)
        h = h + self.feedforward(self.norms[2](h))
        return self.output(self.norms[3](h))
