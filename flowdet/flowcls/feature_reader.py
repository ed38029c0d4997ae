"""From a backbone's outputs to what the flow blocks see."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

FEATURES = ("pooled", "tokens")


def as_tokens(x: Tensor) -> Tensor:
    """A map [B, c, H, W] as [B, H * W, c]; tokens [B, N, c] as they are."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def pool(x: Tensor) -> Tensor:
    """The mean over the positions of a map or of tokens, [B, c]."""
    return as_tokens(x).mean(dim=1)


class FeatureReader(nn.Module):
    """Layer-normalised features of chosen stages of a backbone.

    Args:
        names: of the stages.
        channels: of each.
        kind: `pooled` for [B, c], `tokens` for [B, N, c].

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
        """One tensor per stage."""
        read = pool if self.kind == "pooled" else as_tokens
        return [
            norm(read(features[name])) for name, norm in zip(self.names, self.norms, strict=True)
        ]
