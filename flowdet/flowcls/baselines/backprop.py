"""BackpropClassifier: the same backbone and blocks, chained and trained end to end (D.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from flowdet.flow.blocks import encoder_layer
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.build import build_blocks, build_shared_parts


class ChainedBlocks(nn.Module):
    """A learned vector that the T blocks of the flow model correct one after the other.

    Args:
        blocks: T blocks of `flowdet.flow`, not self-conditioned.
        dim: d.
    """

    def __init__(self, blocks: Iterable[nn.Module], dim: int):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.start = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """Features as the flow blocks see them to [B, d]."""
        z = self.start.expand(features.shape[0], -1)
        no_time = torch.zeros_like(z)
        for block in self.blocks:
            z = z + block(z, no_time, features)
        return z


class EncoderHead(nn.Module):
    """A stack of transformer encoder layers on a learned token and the image tokens: the head of
    the paper's fine-tuning baseline.

    Args:
        feature_dim: of the tokens, [B, N, feature_dim].
        dim: d, of the result.
        num_layers, num_heads, hidden_dim, dropout: of the layers.
    """

    def __init__(
        self,
        feature_dim: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
    ):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(feature_dim))
        self.layers = nn.Sequential(
            *(encoder_layer(feature_dim, num_heads, hidden_dim, dropout) for _ in range(num_layers))
        )
        self.output = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, feature_dim] tokens to [B, d]."""
        token = self.token.expand(features.shape[0], 1, -1)
        return self.output(self.layers(torch.cat([token, features], dim=1))[:, 0])


@META_ARCH_REGISTRY.register()
class BackpropClassifier(Classifier):
    """The baseline: cross-entropy at the end, gradients through all blocks.

    Shares every part with `FlowMatchingClassifier` but the noise, the time embedding, the
    targets and the blocks' input for the previous estimate.

    Args:
        head: features to [B, d].
        projection: [B, d] to logits.
        parts: those of `Classifier`; the reader gives one feature.
    """

    @configurable
    def __init__(self, *, head: nn.Module, projection: nn.Module, **parts):
        super().__init__(**parts)
        self.head = head
        self.projection = projection

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.FLOW_CLS
        if node.TOPOLOGY != "parallel":
            raise ValueError(
                "BackpropClassifier reads the last stage: MODEL.FLOW_CLS.TOPOLOGY parallel"
            )
        shared = build_shared_parts(cfg)
        channels = shared["reader"].channels
        if node.BLOCK == "encoder":
            head: nn.Module = EncoderHead(
                channels[0],
                node.HIDDEN_DIM,
                node.NUM_BLOCKS,
                node.NUM_HEADS,
                node.BLOCK_DIM,
                node.DROPOUT,
            )
        else:
            head = ChainedBlocks(build_blocks(node, channels, False), node.HIDDEN_DIM)
        projection = nn.Linear(node.HIDDEN_DIM, node.NUM_CLASSES)
        return {**shared, "head": head, "projection": projection}

    def losses(self, features: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the head's logits."""
        logits = self.projection(self.head(features[0])).float()
        return {"loss_class": F.cross_entropy(logits, labels)}

    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """`head` alone."""
        return {"head": self.projection(self.head(features[0]))}
