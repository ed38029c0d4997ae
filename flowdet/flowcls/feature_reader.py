"""FeatureReader: maps the outputs of a backbone to the features that the flow blocks get."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

FEATURES = ("pooled", "tokens")


def as_tokens(x: Tensor) -> Tensor:
    """Converts a feature map [B, c, H, W] to tokens [B, H * W, c]; keeps tokens [B, N, c]."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def pool(x: Tensor) -> Tensor:
    """Averages a feature map [B, c, H, W] or tokens [B, N, c] over the positions: [B, c].

    Vectors [B, c] are returned unchanged.
    """
    return x if x.dim() == 2 else as_tokens(x).mean(dim=1)


class FeatureReader(nn.Module):
    """Returns layer-normalized features of some stages of a backbone.

    Args:
        names: names of the stages.
        channels: number of channels of each stage.
        kind: form of the features: `pooled` is [B, c], `tokens` is [B, N, c].

    Raises:
        ValueError: unknown kind.
    """

    def __init__(self, names: Sequence[str], channels: Sequence[int], kind: str):
        super().__init__()
        if kind not in FEATURES:
            raise ValueError(f"unknown MODEL.FLOW_CLS.FEATURES {kind!r}: use one of {FEATURES}")
        self.names = list(names)
        self.channels = list(channels)
        self.kind = kind
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Returns the features of every stage, in the order of `names`."""
        read = pool if self.kind == "pooled" else as_tokens
        return [
            norm(read(features[name])) for name, norm in zip(self.names, self.norms, strict=True)
        ]
