"""Builds the parts of a classifier from the config node `MODEL.FLOW_CLS`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

from flowdet.config import pixel_settings
from flowdet.flow import (
    EncoderFlowBlock,
    FlowEnsemble,
    MLPFlowBlock,
    ResidualMLPFlowBlock,
    TimeEmbedding,
)
from flowdet.flowcls.feature_reader import FeatureReader
from flowdet.flowcls.probe import LinearProbe
from flowdet.registry import registered

CLASSIFICATION_BLOCK_REGISTRY = Registry("CLASSIFICATION_BLOCK")
CLASSIFICATION_BLOCK_REGISTRY.__doc__ = """
Flow blocks of a classifier, by the name in `MODEL.FLOW_CLS.BLOCK`. An entry is a function of the
node `MODEL.FLOW_CLS`, of the number of channels of the features, and of `self_conditioned`. It
returns a module with the call signature of the blocks in `flowdet.flow.blocks`.
"""


def build_shared_parts(cfg: CfgNode) -> dict:
    """Builds the parts of a `BlockClassifier`, as its keyword arguments.

    Raises:
        ValueError: the value of a key is unknown, out of range, or does not fit another key; or
            `IN_FEATURES` names a stage that the backbone does not have.
    """
    node = cfg.MODEL.FLOW_CLS
    _check(node)
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    names = _stages(node, list(shapes))
    return {
        "backbone": backbone,
        "reader": FeatureReader(names, [shapes[n].channels for n in names], node.FEATURES),
        "probe": LinearProbe(list(shapes.values())[-1].channels, node.NUM_CLASSES),
        "num_classes": node.NUM_CLASSES,
        "pixels": pixel_settings(cfg),
    }


def _stages(node: CfgNode, known: list[str]) -> list[str]:
    """Returns the names of the stages that the blocks use: the last stage, or one per block."""
    names = list(node.IN_FEATURES) or known
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"MODEL.FLOW_CLS.IN_FEATURES names {missing}, which the backbone does not have: it "
            f"has {known}"
        )
    if names[-1] != known[-1]:
        raise ValueError(
            f"MODEL.FLOW_CLS.IN_FEATURES ends with {names[-1]!r}, so nothing would train the last "
            f"stage of the backbone, {known[-1]!r}: add it at the end, or use a smaller backbone"
        )
    if node.TOPOLOGY != "sequential":
        return names[-1:]
    if len(names) != node.NUM_BLOCKS:
        raise ValueError(
            "MODEL.FLOW_CLS.TOPOLOGY sequential needs one stage per block: NUM_BLOCKS is "
            f"{node.NUM_BLOCKS}, the stages are {names}. Set IN_FEATURES or NUM_BLOCKS"
        )
    return names


def build_flow(node: CfgNode, channels: Sequence[int]) -> FlowEnsemble:
    """Builds the flow ensemble of `MODEL.FLOW_CLS`.

    Args:
        node: the config node.
        channels: number of channels of the features: one for all blocks, or one per block.

    Raises:
        ValueError: as `build_blocks`.
    """
    needs_start = node.SELF_CONDITIONING or node.PREDICTION == "target"
    return FlowEnsemble(
        build_blocks(node, channels, node.SELF_CONDITIONING),
        TimeEmbedding(node.HIDDEN_DIM),
        prediction=node.PREDICTION,
        start=nn.Parameter(torch.zeros(node.HIDDEN_DIM)) if needs_start else None,
    )


def build_blocks(node: CfgNode, channels: Sequence[int], self_conditioned: bool) -> list[nn.Module]:
    """Builds the T blocks of `MODEL.FLOW_CLS`.

    Args:
        node, channels: see `build_flow`.
        self_conditioned: see `StateInput`.

    Raises:
        ValueError: unknown `BLOCK`, or the channels do not fit `NUM_HEADS`.
    """
    build = registered(CLASSIFICATION_BLOCK_REGISTRY, node.BLOCK, "MODEL.FLOW_CLS.BLOCK")
    per_block = list(channels) * (node.NUM_BLOCKS if len(channels) == 1 else 1)
    return [build(node, c, self_conditioned) for c in per_block]


@CLASSIFICATION_BLOCK_REGISTRY.register()
def mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """The MLP of eq. 7-8."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, 3)
    return MLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def light_mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """An MLP with one hidden layer."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, 2)
    return MLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def residual_mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """The deep residual MLP of D.2."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, node.BLOCK_LAYERS)
    return ResidualMLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def encoder(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """A transformer encoder layer on image tokens (5.3, D.2)."""
    if channels % node.NUM_HEADS:
        raise ValueError(
            f"the backbone's tokens have {channels} channels, which is not a multiple of "
            f"MODEL.FLOW_CLS.NUM_HEADS = {node.NUM_HEADS}"
        )
    sizes = (node.HIDDEN_DIM, channels, node.NUM_HEADS, node.BLOCK_DIM)
    return EncoderFlowBlock(*sizes, node.DROPOUT, self_conditioned)


def _check(node: CfgNode) -> None:
    for key in (
        *("NUM_CLASSES", "NUM_BLOCKS", "HIDDEN_DIM"),
        *("BLOCK_DIM", "BLOCK_LAYERS", "NUM_HEADS"),
    ):
        if node[key] < 1:
            hint = " (flowdet.engine.resolve_config takes it from the dataset)"
            raise ValueError(
                f"MODEL.FLOW_CLS.{key} must be at least 1, got {node[key]}"
                f"{hint if key == 'NUM_CLASSES' else ''}"
            )
    if node.BLOCK == "encoder" and node.FEATURES != "tokens":
        raise ValueError(
            "MODEL.FLOW_CLS.BLOCK encoder attends to tokens: set MODEL.FLOW_CLS.FEATURES tokens, "
            f"got {node.FEATURES!r}"
        )
