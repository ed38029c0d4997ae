"""Small ensembles with known behavior, for the tests of flow."""

import torch
from torch import nn

from flowdet.flow import FlowEnsemble, MLPFlowBlock, TimeEmbedding

DIM = 4


class ConstantBlock(nn.Module):
    """A constant output."""

    def __init__(self, value: float):
        super().__init__()
        self.register_buffer("value", torch.tensor(value))

    def forward(self, z_t, time_embedding, features, estimate=None, position=None):
        return self.value.expand_as(z_t)


class TimesBlock(nn.Module):
    """velocity = 3 t^2, so the exact solution of the ODE is z_0 + t^3."""

    def forward(self, z_t, time_embedding, features, estimate=None, position=None):
        return 3 * time_embedding[:, :1].square().expand_as(z_t)


class IdentityTime(nn.Module):
    """A time embedding that is the time itself."""

    def forward(self, t):
        return t[:, None]


def constants(*values: float, **kwargs) -> FlowEnsemble:
    return FlowEnsemble([ConstantBlock(v) for v in values], IdentityTime(), **kwargs)


def mlps(num_blocks: int = 3, dtype=torch.float32, **kwargs) -> FlowEnsemble:
    """MLP blocks on features [B, 5]; with `prediction="target"` they are self-conditioned."""
    torch.manual_seed(0)
    conditioned = kwargs.get("prediction") == "target"
    if conditioned:
        kwargs["start"] = nn.Parameter(torch.randn(DIM))
    blocks = [
        MLPFlowBlock(DIM, 5, hidden_dim=8, self_conditioned=conditioned) for _ in range(num_blocks)
    ]
    return FlowEnsemble(blocks, TimeEmbedding(DIM), **kwargs).to(dtype)
