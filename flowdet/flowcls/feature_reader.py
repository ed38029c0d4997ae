"""FeatureReader: the outputs of a backbone to the features that the flow blocks read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

FEATURES = ("pooled", "tokens")


def as_tokens(x: Tensor) -> Tensor:
    """A feature map [B, c, H, W] as tokens [B, H * W, c]; tokens [B, N, c] are left as they are."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def pool(x: Tensor) -> Tensor:
    """The mean of a feature map or of tokens over their positions, [B, c]."""
    return as_tokens(x).mean(dim=1)


class FeatureReader(nn.Module):
    """Layer-normalized features of some stages of a backbone.

    Args:
        names: of the stages.
        channels: of each stage.
        kind: `pooled` returns [B, c], `tokens` returns [B, N, c].

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
        """The features of every stage, in the order of `names`."""
        read = pool if self.kind == "pooled" else as_tokens
        return [
            norm(read(features[name])) for name, norm in zip(self.names, self.norms, strict=True)
        ]
