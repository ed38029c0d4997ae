"""The flow blocks: the predictors v_theta_k that carry a state towards its target.

Every block has the signature `block(z_t, time_code, features, estimate, position)` and
returns one vector per state vector. Whether that is read as a velocity or as a correction
of the estimate is up to `FlowEnsemble`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowdet.flow.tokens import ImageTokens, PointReader


@dataclass(frozen=True)
class QueryPosition:
    """Where the queries are; None for what they do not have.

    Attributes:
        own: code that tells queries apart in self-attention, [B or 1, M, d].
        cross: code of where a query looks in cross-attention, [B or 1, M, d].
        points: where a query also reads the feature maps, (x, y) in units of the image,
            [B, M, P, 2].
    """

    own: Tensor | None = None
    cross: Tensor | None = None
    points: Tensor | None = None


def _plus(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class StateInput(nn.Module):
    """`h = Linear(z_t) + time_code [+ Linear(estimate)]`, [B, ..., d] (3.2.2).

    Args:
        dim: d.
        self_conditioned: also take the previous estimate of the target in.
    """

    def __init__(self, dim: int, self_conditioned: bool):
        super().__init__()
        self.state = nn.Linear(dim, dim)
        self.estimate = nn.Linear(dim, dim) if self_conditioned else None

    def forward(self, z_t: Tensor, time_code: Tensor, estimate: Tensor | None) -> Tensor:
        h = self.state(z_t) + time_code.reshape(z_t.shape[0], *[1] * (z_t.dim() - 2), -1)
        if self.estimate is None:
            return h
        if estimate is None:
            raise ValueError("a self-conditioned block needs an estimate to start from")
        return h + self.estimate(estimate)


class TransformerFlowBlock(nn.Module):
    """Queries x image tokens: self-attention, cross-attention, feed-forward (3.2.2, D.1).

    Pre-norm: the residual stream inside a block is never normalised away.

    Args:
        dim: d, of queries and tokens.
        num_heads: attention heads.
        feedforward_dim: hidden units of the feed-forward part.
        dropout: of attention and feed-forward.
        self_conditioned: see `StateInput`.
        tie_position: start the key projection of the cross-attention as a copy of the query
            projection, so that from the first iteration on a query attends to the tokens
            whose position code is like its own.
        num_points: P of `QueryPosition.points`, times the feature maps; 0 reads none.
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
    ):
        super().__init__()
        self.input = StateInput(dim, self_conditioned)
        self.point_reader = PointReader(dim, num_points) if num_points else None
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
        time_code: Tensor,
        features: ImageTokens,
        estimate: Tensor | None = None,
        position: QueryPosition | None = None,
    ) -> Tensor:
        """[B, M, d] states, [B, d] time codes to [B, M, d]."""
        position = position or QueryPosition()
        h = self.input(z_t, time_code, estimate)
        x = self.norms[0](h)
        query = _plus(x, position.own)
        h = h + self.self_attention(query, query, x, need_weights=False)[0]
        h = (
            h
            + self.cross_attention(
                _plus(self.norms[1](h), position.cross),
                _plus(features.tokens, features.position),
                features.tokens,
                key_padding_mask=features.padding,
                need_weights=False,
            )[0]
        )
        if self.point_reader is not None:
            h = h + self.point_reader(features, position.points)
        h = h + self.feedforward(self.norms[2](h))
        return self.output(self.norms[3](h))


def _beside(features: Tensor, h: Tensor) -> Tensor:
    """`[f(x), h]` for features [B, c]; for [B, N, c] the state h [B, d] beside each of them."""
    if features.dim() == 3:
        h = h[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, h], dim=-1)


def _over_positions(x: Tensor) -> Tensor:
    """[B, d] as it is, the mean of [B, N, d]."""
    return x.mean(dim=1) if x.dim() == 3 else x


class FeatureBlock(nn.Module, ABC):
    """A block for one state vector per image: sees the conditioned state and the features.

    Args:
        dim: d, of the state.
        self_conditioned: see `StateInput`.
    """

    def __init__(self, dim: int, self_conditioned: bool):
        super().__init__()
        self.input = StateInput(dim, self_conditioned)

    @abstractmethod
    def combine(self, h: Tensor, features: Tensor) -> Tensor:
        """The conditioned state [B, d] and the features to [B, d]."""

    def forward(
        self,
        z_t: Tensor,
        time_code: Tensor,
        features: Tensor,
        estimate: Tensor | None = None,
        position: QueryPosition | None = None,
    ) -> Tensor:
        """[B, d] states, [B, d] time codes, [B, (N,) c] features to [B, d]."""
        return self.combine(self.input(z_t, time_code, estimate), features)


class MLPFlowBlock(FeatureBlock):
    """`MLP([f(x), Linear(z_t) + e_t])` for one state vector per image (eq. 7-8).

    With features of several positions, [B, N, feature_dim], the MLP sees each beside the state,
    and the outputs are averaged.

    Args:
        dim: d, of the state.
        feature_dim: of the image feature f(x), [B, feature_dim].
        hidden_dim: hidden units.
        num_layers: linear layers, at least 2.
        dropout: after each hidden activation.
        self_conditioned: see `StateInput`.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        hidden_dim: int = 512,
        num_layers: int = 3,
        dropout: float = 0.0,
        self_conditioned: bool = False,
    ):
        super().__init__(dim, self_conditioned)
        if num_layers < 2:
            raise ValueError(f"an MLP block needs at least 2 layers, got {num_layers}")
        layers: list[nn.Module] = []
        width = feature_dim + dim
        for _ in range(num_layers - 1):
            layers += [nn.Linear(width, hidden_dim), nn.GELU(), nn.Dropout(dropout)]
            width = hidden_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(width, dim))

    def combine(self, h: Tensor, features: Tensor) -> Tensor:
        return _over_positions(self.mlp(_beside(features, h)))


class ResidualMLPFlowBlock(FeatureBlock):
    """A deep residual MLP on `[f(x), Linear(z_t) + e_t]` (D.2), pre-norm.

    Features of several positions are treated as in `MLPFlowBlock`, and the arguments are its
    own, but for

    Args:
        hidden_dim: hidden units of each residual layer; the residual stream has d.
        num_layers: residual layers.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        hidden_dim: int = 1024,
        num_layers: int = 2,
        dropout: float = 0.0,
        self_conditioned: bool = False,
    ):
        super().__init__(dim, self_conditioned)
        self.merge = nn.Linear(feature_dim + dim, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, hidden_dim),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden_dim, dim),
            )
            for _ in range(num_layers)
        )
        self.output = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def combine(self, h: Tensor, features: Tensor) -> Tensor:
        h = self.merge(_beside(features, h))
        for layer in self.layers:
            h = h + layer(h)
        return _over_positions(self.output(h))


class EncoderFlowBlock(FeatureBlock):
    """One transformer encoder layer on the state, as one more token, and the image tokens.

    What the paper fine-tunes on the unpooled output of a vision transformer (5.3, D.2).

    Args:
        dim: d, of the state.
        feature_dim: of the image tokens, [B, N, feature_dim], and of the layer.
        num_heads: attention heads.
        hidden_dim: hidden units of the feed-forward part.
        dropout: of attention and feed-forward.
        self_conditioned: see `StateInput`.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        num_heads: int = 4,
        hidden_dim: int = 512,
        dropout: float = 0.0,
        self_conditioned: bool = False,
    ):
        super().__init__(dim, self_conditioned)
        self.to_token = nn.Identity() if dim == feature_dim else nn.Linear(dim, feature_dim)
        self.layer = encoder_layer(feature_dim, num_heads, hidden_dim, dropout)
        self.output = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, dim))

    def combine(self, h: Tensor, features: Tensor) -> Tensor:
        token = self.to_token(h)[:, None]
        return self.output(self.layer(torch.cat([token, features], dim=1))[:, 0])


def encoder_layer(dim: int, num_heads: int, hidden_dim: int, dropout: float) -> nn.Module:
    """A pre-norm transformer encoder layer, [B, N, dim] to the same."""
    return nn.TransformerEncoderLayer(
        dim, num_heads, hidden_dim, dropout, "gelu", batch_first=True, norm_first=True
    )
