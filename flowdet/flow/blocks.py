"""Flow blocks for one state vector per image: the predictors v_theta_k of a classifier.

Every block is called as `block(z_t, time_embedding, features, estimate, position)` and returns one
vector per state vector. `FlowEnsemble` interprets this output as a velocity or as a correction of
the estimate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class StateInput(nn.Module):
    """`h = Linear(z_t) + time_embedding [+ Linear(estimate)]`, [B, ..., d] (3.2.2).

    Args:
        dim: d.
        self_conditioned: also take the previous estimate of z_1 as input.

    Raises (from `forward`):
        ValueError: the block is self-conditioned, but no estimate is given.
    """

    def __init__(self, dim: int, self_conditioned: bool):
        super().__init__()
        self.state = nn.Linear(dim, dim)
        self.estimate = nn.Linear(dim, dim) if self_conditioned else None

    def forward(self, z_t: Tensor, time_embedding: Tensor, estimate: Tensor | None) -> Tensor:
        h = self.state(z_t) + time_embedding.reshape(z_t.shape[0], *[1] * (z_t.dim() - 2), -1)
        if self.estimate is None:
            return h
        if estimate is None:
            raise ValueError("a self-conditioned block needs an estimate")
        return h + self.estimate(estimate)


def _concatenate(features: Tensor, h: Tensor) -> Tensor:
    """Concatenates h [B, d] to features [B, c], or to every position of features [B, N, c]."""
    if features.dim() == 3:
        h = h[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, h], dim=-1)


def _mean_over_positions(x: Tensor) -> Tensor:
    """Averages [B, N, d] over the positions; returns [B, d] unchanged."""
    return x.mean(dim=1) if x.dim() == 3 else x


class FeatureBlock(nn.Module, ABC):
    """Base class of the blocks for one state vector per image.

    A subclass combines the features with the conditioned state that `StateInput` returns.

    Args:
        dim: dimension d of the state.
        self_conditioned: see `StateInput`.
    """

    def __init__(self, dim: int, self_conditioned: bool):
        super().__init__()
        self.input = StateInput(dim, self_conditioned)

    @abstractmethod
    def combine(self, h: Tensor, features: Tensor) -> Tensor:
        """Maps the conditioned state [B, d] and the features [B, (N,) c] to [B, d]."""

    def forward(
        self,
        z_t: Tensor,
        time_embedding: Tensor,
        features: Tensor,
        estimate: Tensor | None = None,
        position: object = None,
    ) -> Tensor:
        """Maps states [B, d], time embeddings [B, d] and features [B, (N,) c] to [B, d]."""
        return self.combine(self.input(z_t, time_embedding, estimate), features)


class MLPFlowBlock(FeatureBlock):
    """`MLP([f(x), Linear(z_t) + e_t])` for one state vector per image (eq. 7-8).

    If the features have several positions, [B, N, feature_dim], the MLP is applied to each position
    together with the state, and the outputs are averaged.

    Args:
        dim: dimension d of the state.
        feature_dim: dimension of the image feature f(x), [B, feature_dim].
        hidden_dim: hidden units.
        num_layers: number of linear layers, at least 2.
        dropout: dropout probability after each hidden activation.
        self_conditioned: see `StateInput`.

    Raises:
        ValueError: fewer than 2 layers.
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
        return _mean_over_positions(self.mlp(_concatenate(features, h)))


class ResidualMLPFlowBlock(FeatureBlock):
    """A deep residual MLP on `[f(x), Linear(z_t) + e_t]` (D.2), pre-norm.

    Features with several positions are handled as in `MLPFlowBlock`.

    Args:
        dim, feature_dim, dropout, self_conditioned: see `MLPFlowBlock`.
        hidden_dim: hidden units of each residual layer; the residual stream has d channels.
        num_layers: number of residual layers.
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
        h = self.merge(_concatenate(features, h))
        for layer in self.layers:
            h = h + layer(h)
        return _mean_over_positions(self.output(h))


class EncoderFlowBlock(FeatureBlock):
    """A transformer encoder layer on the image tokens, with the state as an extra token.

    The paper fine-tunes it on the unpooled output of a vision transformer (5.3, D.2).

    Args:
        dim: dimension d of the state.
        feature_dim: dimension of the image tokens [B, N, feature_dim] and of the layer.
        num_heads: number of attention heads.
        hidden_dim: hidden units of the feed-forward part.
        dropout: dropout probability in attention and feed-forward.
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
    """Builds a pre-norm transformer encoder layer for tokens [B, N, dim]."""
    return nn.TransformerEncoderLayer(
        dim, num_heads, hidden_dim, dropout, "gelu", batch_first=True, norm_first=True
    )
