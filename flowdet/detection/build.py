"""The parts of a detector from `MODEL.FLOW_DET`."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

from flowdet.config import pixel_settings
from flowdet.detection.boxes import grid_boxes
from flowdet.detection.criterion import LossWeights, SetCriterion
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.neck import TokenNeck
from flowdet.detection.position import QueryPositionalEncoding, SinePositionalEncoding
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.stability import BoxStability
from flowdet.detection.transformer_block import TransformerFlowBlock
from flowdet.flow import FlowEnsemble, TimeEmbedding
from flowdet.registry import registered

DETECTION_BLOCK_REGISTRY = Registry("DETECTION_BLOCK")
DETECTION_BLOCK_REGISTRY.__doc__ = """
Flow blocks of a detector, by the name in `MODEL.FLOW_DET.BLOCK`. An entry is called with the node
`MODEL.FLOW_DET` and `self_conditioned`, and returns a module with the call signature of
`TransformerFlowBlock`.
"""


def build_shared_parts(cfg: CfgNode) -> dict:
    """The parts that all detectors have, as keyword arguments of `SetDetector`.

    Raises:
        ValueError: `MODEL.FLOW_DET.IN_FEATURES` names a feature map that the backbone lacks, or a
            size is impossible.
    """
    flow_cfg = cfg.MODEL.FLOW_DET
    _check_sizes(flow_cfg)
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    missing = [name for name in flow_cfg.IN_FEATURES if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.FLOW_DET.IN_FEATURES names {missing}, which the backbone does not have: "
            f"it has {sorted(shapes)}"
        )
    num_classes, dim = flow_cfg.NUM_CLASSES, flow_cfg.HIDDEN_DIM
    in_shapes = [shapes[name] for name in flow_cfg.IN_FEATURES]
    encoding = SinePositionalEncoding(dim, max_position_frequency(cfg, in_shapes))
    weights = build_loss_weights(flow_cfg)
    return {
        "backbone": backbone,
        "in_features": flow_cfg.IN_FEATURES,
        "neck": TokenNeck(in_shapes, dim, encoding, flow_cfg.NECK_NORM, flow_cfg.NECK_BLOCKS),
        "heads": DetectionHeads(dim, num_classes, flow_cfg.BOX_HEAD),
        "matcher": HungarianMatcher(weights.classes, weights.bbox, weights.giou),
        "criterion": SetCriterion(num_classes, weights, flow_cfg.IOU_AWARE_TARGETS),
        "matching": flow_cfg.MATCHING,
        "postprocess": PostProcessor(
            flow_cfg.SCORE_THRESHOLD, flow_cfg.NMS_THRESHOLD, cfg.TEST.DETECTIONS_PER_IMAGE
        ),
        "num_queries": flow_cfg.NUM_QUERIES,
        "pixels": pixel_settings(cfg),
        "feature_cache": _feature_cache(flow_cfg),
        "stability": _stability(flow_cfg),
    }


def build_loss_weights(flow_cfg: CfgNode) -> LossWeights:
    """The weights of `MODEL.FLOW_DET`. The background weight is shared out among the queries."""
    return LossWeights(
        classes=flow_cfg.CLASS_WEIGHT,
        bbox=flow_cfg.BBOX_WEIGHT,
        giou=flow_cfg.GIOU_WEIGHT,
        # never above that of an object, however few queries there are
        background=min(flow_cfg.BACKGROUND_WEIGHT_PER_IMAGE / flow_cfg.NUM_QUERIES, 1.0),
        flow=flow_cfg.FLOW_WEIGHT,
        first_block=flow_cfg.FIRST_BLOCK_WEIGHT,
        start=flow_cfg.START_WEIGHT,
    )


def max_position_frequency(cfg: CfgNode, in_shapes: Sequence[ShapeSpec]) -> float:
    """`MODEL.FLOW_DET.POSITION_MAX_FREQUENCY`, in cycles per image; where it is 0, half the tokens
    along the shorter side of an image on the finest feature map, minus one, and at least 1.

    Raises:
        ValueError: it is negative, or 0 and the number of tokens is not known.
    """
    frequency = cfg.MODEL.FLOW_DET.POSITION_MAX_FREQUENCY
    if frequency < 0:
        raise ValueError(
            f"MODEL.FLOW_DET.POSITION_MAX_FREQUENCY must not be negative, got {frequency}"
        )
    if frequency:
        return frequency
    side = min(cfg.INPUT.FIXED_SIZE) or cfg.INPUT.MIN_SIZE_TEST
    strides = [shape.stride for shape in in_shapes]
    if not side or None in strides:
        raise ValueError(
            "MODEL.FLOW_DET.POSITION_MAX_FREQUENCY 0 derives it from the token grid, but the image "
            "size (INPUT.FIXED_SIZE, INPUT.MIN_SIZE_TEST) or the stride of the backbone is not "
            "known: set it to less than half the tokens along the shorter side of an image"
        )
    return max(side / min(strides) / 2 - 1, 1.0)


def _feature_cache(flow_cfg: CfgNode) -> FeatureCache | None:
    if not flow_cfg.FEATURE_CACHE_GIB:
        return None
    return FeatureCache(flow_cfg.FEATURE_CACHE_GIB, flow_cfg.FEATURE_CACHE_DIR)


def _stability(flow_cfg: CfgNode) -> BoxStability | None:
    samples, shape = flow_cfg.STABILITY_SAMPLES, (flow_cfg.NUM_QUERIES, flow_cfg.HIDDEN_DIM)
    if not samples:
        return None
    return BoxStability(samples, flow_cfg.STABILITY_NOISE, shape, flow_cfg.NOISE_SEED)


def build_flow(
    flow_cfg: CfgNode, encoding: SinePositionalEncoding, heads: DetectionHeads
) -> FlowEnsemble:
    """The flow ensemble of `MODEL.FLOW_DET`.

    Raises:
        ValueError: a key needs another one that is off.
    """
    positions = build_query_positions(flow_cfg, encoding, heads)
    anchored = flow_cfg.ANCHORED_QUERIES
    if (flow_cfg.SELF_CONDITIONING or flow_cfg.PREDICTION == "target") and not anchored:
        raise ValueError(
            "MODEL.FLOW_DET.SELF_CONDITIONING and PREDICTION target need an initial estimate: set "
            "MODEL.FLOW_DET.ANCHORED_QUERIES True"
        )
    return FlowEnsemble(
        build_blocks(flow_cfg, flow_cfg.SELF_CONDITIONING),
        TimeEmbedding(flow_cfg.HIDDEN_DIM),
        prediction=flow_cfg.PREDICTION,
        start=_start_estimates(flow_cfg, heads) if anchored else None,
        query_position=positions,
    )


def _start_estimates(flow_cfg: CfgNode, heads: DetectionHeads) -> nn.Parameter:
    """[M, d]; trained if any gradient reaches them."""
    reached = flow_cfg.SELF_CONDITIONING or flow_cfg.PREDICTION == "target"
    return nn.Parameter(heads.embed(grid_boxes(flow_cfg.NUM_QUERIES)), requires_grad=reached)


def build_blocks(flow_cfg: CfgNode, self_conditioned: bool) -> list[nn.Module]:
    """The T blocks of `MODEL.FLOW_DET`.

    Raises:
        ValueError: there is no such block.
    """
    build = registered(DETECTION_BLOCK_REGISTRY, flow_cfg.BLOCK, "MODEL.FLOW_DET.BLOCK")
    return [build(flow_cfg, self_conditioned) for _ in range(flow_cfg.NUM_BLOCKS)]


@DETECTION_BLOCK_REGISTRY.register()
def transformer(flow_cfg: CfgNode, self_conditioned: bool) -> TransformerFlowBlock:
    """The transformer decoder block of D.1."""
    return TransformerFlowBlock(
        flow_cfg.HIDDEN_DIM,
        flow_cfg.NUM_HEADS,
        flow_cfg.FEEDFORWARD_DIM,
        flow_cfg.DROPOUT,
        self_conditioned=self_conditioned,
        tie_position=flow_cfg.BOX_ANCHORED_ATTENTION,
        num_points=flow_cfg.BOX_SAMPLES**2 * len(flow_cfg.IN_FEATURES),
    )


def build_query_positions(
    flow_cfg: CfgNode, encoding: SinePositionalEncoding, heads: DetectionHeads
) -> QueryPositionalEncoding | None:
    """Positional encodings of anchored queries; None if they are not anchored.

    Raises:
        ValueError: box-anchored attention without anchors, or box samples without it.
    """
    if flow_cfg.BOX_SAMPLES and not flow_cfg.BOX_ANCHORED_ATTENTION:
        raise ValueError(
            "MODEL.FLOW_DET.BOX_SAMPLES lie in the box of the estimate: they need "
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION True"
        )
    if not flow_cfg.ANCHORED_QUERIES and flow_cfg.BOX_ANCHORED_ATTENTION:
        raise ValueError(
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION attends to the box of the estimate: it needs "
            "MODEL.FLOW_DET.ANCHORED_QUERIES True"
        )
    if not flow_cfg.ANCHORED_QUERIES:
        return None
    decode = heads.boxes if flow_cfg.BOX_ANCHORED_ATTENTION else None
    anchors, samples = grid_boxes(flow_cfg.NUM_QUERIES), flow_cfg.BOX_SAMPLES
    return QueryPositionalEncoding(encoding, flow_cfg.HIDDEN_DIM, anchors, decode, samples)


def _check_sizes(flow_cfg: CfgNode) -> None:
    for key in ("NUM_CLASSES", "NUM_QUERIES", "NUM_BLOCKS", "NUM_HEADS"):
        if flow_cfg[key] < 1:
            hint = " (flowdet.engine.resolve_config takes it from the dataset)"
            raise ValueError(
                f"MODEL.FLOW_DET.{key} must be at least 1, got {flow_cfg[key]}"
                f"{hint if key == 'NUM_CLASSES' else ''}"
            )
    if flow_cfg.HIDDEN_DIM % flow_cfg.NUM_HEADS:
        raise ValueError(
            f"MODEL.FLOW_DET.HIDDEN_DIM = {flow_cfg.HIDDEN_DIM} is not a multiple of NUM_HEADS = "
            f"{flow_cfg.NUM_HEADS}"
        )
