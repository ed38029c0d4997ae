"""The parts of a classifier from `MODEL.FLOW_CLS`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

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
Flow blocks of a classifier, by the name that `MODEL.FLOW_CLS.BLOCK` gives. Called with the node
`MODEL.FLOW_CLS`, the channels of the features and `self_conditioned`; what it returns is called
like `FeatureBlock`.
"""


def build_shared_parts(cfg: CfgNode) -> dict:
    """What a classifier consists of whatever trains its blocks, as keyword arguments.

    Raises:
        ValueError: a stage is not there, the stages do not fit the blocks, or a size is
            impossible.
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
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }


def _stages(node: CfgNode, known: list[str]) -> list[str]:
    """The stages that the blocks read: the last one, or one per block."""
    names = list(node.IN_FEATURES) or known
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"MODEL.FLOW_CLS.IN_FEATURES names {missing}, which the backbone does not have: it "
            f"has {known}"
        )
    if names[-1] != known[-1]:
        raise ValueError(
            f"MODEL.FLOW_CLS.IN_FEATURES ends with {names[-1]!r}, but the backbone goes on to "
            f"{known[-1]!r}: nothing would train the rest. Use a smaller backbone"
        )
    if node.TOPOLOGY != "sequential":
        return names[-1:]
    if len(names) != node.NUM_BLOCKS:
        raise ValueError(
            f"MODEL.FLOW_CLS.TOPOLOGY sequential needs a stage for each block: NUM_BLOCKS is "
            f"{node.NUM_BLOCKS}, the stages are {names} (choose with IN_FEATURES)"
        )
    return names


def build_flow(node: CfgNode, channels: Sequence[int]) -> FlowEnsemble:
    """The flow ensemble of `MODEL.FLOW_CLS`, for features of so many channels (one number, or
    one per block)."""
    needs_start = node.SELF_CONDITIONING or node.PREDICTION == "target"
    return FlowEnsemble(
        build_blocks(node, channels, node.SELF_CONDITIONING),
        TimeEmbedding(node.HIDDEN_DIM),
        prediction=node.PREDICTION,
        start=nn.Parameter(torch.zeros(node.HIDDEN_DIM)) if needs_start else None,
    )


def build_blocks(node: CfgNode, channels: Sequence[int], self_conditioned: bool) -> list[nn.Module]:
    """The T blocks of `MODEL.FLOW_CLS`, for features of so many channels (one number, or one per
    block)."""
    build = registered(CLASSIFICATION_BLOCK_REGISTRY, node.BLOCK, "MODEL.FLOW_CLS.BLOCK")
    per_block = list(channels) * (node.NUM_BLOCKS if len(channels) == 1 else 1)
    return [build(node, c, self_conditioned) for c in per_block]


@CLASSIFICATION_BLOCK_REGISTRY.register()
def mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """The perceptron of eq. 7-8."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, 3)
    return MLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def light_mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """A perceptron with one hidden layer."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, 2)
    return MLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def residual_mlp(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """The deep perceptron of D.2."""
    sizes = (node.HIDDEN_DIM, channels, node.BLOCK_DIM, node.BLOCK_LAYERS)
    return ResidualMLPFlowBlock(*sizes, node.DROPOUT, self_conditioned)


@CLASSIFICATION_BLOCK_REGISTRY.register()
def encoder(node: CfgNode, channels: int, self_conditioned: bool) -> nn.Module:
    """A transformer encoder layer on image tokens (5.3, D.2)."""
    if channels % node.NUM_HEADS:
        raise ValueError(
            f"MODEL.FLOW_CLS.NUM_HEADS = {node.NUM_HEADS} does not divide the {channels} "
            "channels of the backbone's tokens"
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
            "MODEL.FLOW_CLS.BLOCK encoder attends to tokens: set MODEL.FLOW_CLS.FEATURES tokens"
        )
