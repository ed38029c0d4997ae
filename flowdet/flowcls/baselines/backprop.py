"""BackpropClassifier: the backbone and blocks of the flow model, trained end to end (D.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from flowdet.flow.blocks import encoder_layer
from flowdet.flowcls.block_classifier import BlockClassifier
from flowdet.flowcls.build import build_blocks, build_shared_parts


class ChainedBlocks(nn.Module):
    """A learned vector to which T flow blocks add their outputs in sequence.

    Args:
        blocks: T blocks of `flowdet.flow` that are not self-conditioned.
        dim: embedding dimension d.
    """

    def __init__(self, blocks: Iterable[nn.Module], dim: int):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.start = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features [B, (N,) c] to embeddings [B, d]."""
        return self.block_outputs(features)[-1]

    def block_outputs(self, features: Tensor) -> list[Tensor]:
        """Computes the embeddings after every block, each [B, d]."""
        z = self.start.expand(features.shape[0], -1)
        no_time = torch.zeros_like(z)
        outputs = []
        for block in self.blocks:
            z = z + block(z, no_time, features)
            outputs.append(z)
        return outputs


class EncoderHead(nn.Module):
    """Transformer encoder layers on a learned token and the image tokens.

    It is the head of the paper's fine-tuning baseline (D.2).

    Args:
        feature_dim: number of channels of the tokens.
        dim: embedding dimension d.
        num_layers: number of encoder layers.
        num_heads: number of attention heads of a layer.
        hidden_dim: hidden units of a layer's feed-forward part.
        dropout: dropout probability in the layers.
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
        """Maps tokens [B, N, feature_dim] to embeddings [B, d]."""
        return self.output(self.block_outputs(features)[-1][:, 0])

    def block_outputs(self, features: Tensor) -> list[Tensor]:
        """Computes the tokens after every layer, each [B, 1 + N, feature_dim]."""
        token = self.token.expand(features.shape[0], 1, -1)
        x = torch.cat([token, features], dim=1)
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


@META_ARCH_REGISTRY.register()
class BackpropClassifier(BlockClassifier):
    """The baseline: one cross-entropy loss after the last block, trained end to end.

    It has every part of `FlowMatchingClassifier` except the noise, the time embedding, the target
    embeddings and the blocks' input for the previous estimate.

    Args:
        head: maps the features to embeddings [B, d].
        projection: maps embeddings [B, d] to class logits [B, C].
        parts: the arguments of `BlockClassifier`; the reader returns one feature.

    Raises:
        ValueError: `MODEL.FLOW_CLS.TOPOLOGY` of the config is not "parallel".
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
                "BackpropClassifier uses only the last stage of the backbone: set "
                f"MODEL.FLOW_CLS.TOPOLOGY parallel, got {node.TOPOLOGY!r}"
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
        """Computes the cross-entropy of the class logits."""
        logits = self.projection(self.head(features[0])).float()
        return {"loss_class": F.cross_entropy(logits, labels)}

    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """Computes the class logits [B, C] of the only inference mode, `head`."""
        return {"head": self.projection(self.head(features[0]))}

    def block_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Computes the head's output after every block; see `BlockClassifier.block_outputs`."""
        return {f"block{k}": x for k, x in enumerate(self.head.block_outputs(features[0]))}
