"""Builds the parts of a detector from the config node `MODEL.FLOW_DET`."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

from flowdet.config import encoder_format, pixel_settings
from flowdet.detection.boxes import grid_boxes
from flowdet.detection.criterion import LossWeights, SetCriterion
from flowdet.detection.denoising import Denoising, DenoisingSettings
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.neck import TokenNeck
from flowdet.detection.position import QueryPositionalEncoding, SinePositionalEncoding
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.proposals import build_proposal_network
from flowdet.detection.stability import BoxStability
from flowdet.detection.transformer_block import TransformerFlowBlock
from flowdet.flow import FlowEnsemble, TimeEmbedding
from flowdet.registry import registered

DETECTION_BLOCK_REGISTRY = Registry("DETECTION_BLOCK")
DETECTION_BLOCK_REGISTRY.__doc__ = """
Flow blocks of a detector, by the name in `MODEL.FLOW_DET.BLOCK`. An entry is a function of the node
`MODEL.FLOW_DET` and of `self_conditioned`. It returns a module with the call signature of
`TransformerFlowBlock`.
"""


def build_encoder(cfg: CfgNode) -> dict:
    """Builds backbone, neck and feature cache, as keyword arguments of `BaseDetector`.

    Raises:
        ValueError: the value of a key is unknown, out of range, or does not fit another key; or
            `IN_FEATURES` names a feature map that the backbone does not have.
    """
    flow_cfg = cfg.MODEL.FLOW_DET
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    missing = [name for name in flow_cfg.IN_FEATURES if name not in shapes]
    if missing:
        raise ValueError(
            f"MODEL.FLOW_DET.IN_FEATURES names {missing}, which the backbone does not have: "
            f"it has {sorted(shapes)}"
        )
    dim = flow_cfg.HIDDEN_DIM
    in_shapes = [shapes[name] for name in flow_cfg.IN_FEATURES]
    encoding = SinePositionalEncoding(dim, max_position_frequency(cfg, in_shapes))
    return {
        "backbone": backbone,
        "in_features": flow_cfg.IN_FEATURES,
        "neck": TokenNeck(in_shapes, dim, encoding, flow_cfg.NECK_NORM, flow_cfg.NECK_BLOCKS),
        "pixels": pixel_settings(cfg),
        "feature_cache": _feature_cache(flow_cfg),
        "encoder_format": encoder_format(cfg),
    }


def build_shared_parts(cfg: CfgNode) -> dict:
    """Builds the parts that all detectors with queries have, as keyword arguments of `SetDetector`.

    Raises:
        ValueError: as `build_encoder`.
    """
    flow_cfg = cfg.MODEL.FLOW_DET
    _check_sizes(flow_cfg)
    encoder = build_encoder(cfg)
    num_classes, dim = flow_cfg.NUM_CLASSES, flow_cfg.HIDDEN_DIM
    weights = build_loss_weights(flow_cfg)
    return {
        **encoder,
        "heads": DetectionHeads(dim, num_classes, flow_cfg.BOX_HEAD),
        "matcher": HungarianMatcher(weights.classes, weights.bbox, weights.giou),
        "criterion": SetCriterion(
            num_classes, weights, flow_cfg.IOU_AWARE_TARGETS, flow_cfg.IGNORE_IOU
        ),
        "matching": flow_cfg.MATCHING,
        "postprocess": PostProcessor(
            flow_cfg.SCORE_THRESHOLD, flow_cfg.NMS_THRESHOLD, cfg.TEST.DETECTIONS_PER_IMAGE
        ),
        "num_queries": flow_cfg.NUM_QUERIES,
        "stability": _stability(flow_cfg),
    }


def build_loss_weights(flow_cfg: CfgNode) -> LossWeights:
    """Builds the loss weights. The background weight is divided by the number of queries."""
    return LossWeights(
        classes=flow_cfg.CLASS_WEIGHT,
        bbox=flow_cfg.BBOX_WEIGHT,
        giou=flow_cfg.GIOU_WEIGHT,
        # at most the weight of an object, however few queries there are
        background=min(flow_cfg.BACKGROUND_WEIGHT_PER_IMAGE / flow_cfg.NUM_QUERIES, 1.0),
        flow=flow_cfg.FLOW_WEIGHT,
        first_block=flow_cfg.FIRST_BLOCK_WEIGHT,
        start=flow_cfg.START_WEIGHT,
    )


def max_position_frequency(cfg: CfgNode, in_shapes: Sequence[ShapeSpec]) -> float:
    """Returns the frequency of the fastest sine of the positional encoding, in cycles per image.

    It is `MODEL.FLOW_DET.POSITION_MAX_FREQUENCY`. If that is 0, it is half the number of tokens
    along the shorter side of an image on the finest feature map, minus one, and at least 1.

    Raises:
        ValueError: the key is negative; or it is 0, and the number of tokens is not known.
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
            "MODEL.FLOW_DET.POSITION_MAX_FREQUENCY 0 needs the number of tokens along the shorter "
            "side of an image, but the image size (INPUT.FIXED_SIZE, INPUT.MIN_SIZE_TEST) or the "
            "stride of the backbone is not known: set the key to less than half that number"
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


def build_denoising(cfg: CfgNode, shared: dict) -> dict:
    """Builds what makes denoising queries, as keyword arguments of the detectors that have them.

    Without `DENOISING_QUERIES` and `PROPOSAL_QUERIES` the values are None.

    Args:
        cfg: the config.
        shared: what `build_shared_parts` returns.

    Raises:
        ValueError: a key is out of range, box-anchored attention is off, or the proposal network
            cannot be built.
    """
    flow_cfg = cfg.MODEL.FLOW_DET
    settings = DenoisingSettings(
        flow_cfg.DENOISING_QUERIES,
        flow_cfg.PROPOSAL_QUERIES,
        flow_cfg.DENOISING_NOISE,
        flow_cfg.DENOISING_MIN_IOU,
        flow_cfg.DENOISING_WEIGHT,
    )
    if not settings.count and not settings.proposals:
        return {"denoising": None, "proposal_network": None}
    if not flow_cfg.BOX_ANCHORED_ATTENTION:
        key = "DENOISING_QUERIES" if settings.count else "PROPOSAL_QUERIES"
        raise ValueError(
            f"MODEL.FLOW_DET.{key} start at given boxes: they need "
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION True"
        )
    neck, names = shared["neck"], shared["in_features"]
    return {
        "denoising": Denoising(settings, shared["heads"], shared["criterion"]),
        "proposal_network": build_proposal_network(cfg, names, neck.strides),
    }


def build_flow(
    flow_cfg: CfgNode, encoding: SinePositionalEncoding, heads: DetectionHeads
) -> FlowEnsemble:
    """Builds the flow ensemble of `MODEL.FLOW_DET`.

    Raises:
        ValueError: unknown block, or a key needs another key that is off.
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
    """Returns the initial estimates [M, d]. They are trained only if the blocks use them."""
    reached = flow_cfg.SELF_CONDITIONING or flow_cfg.PREDICTION == "target"
    return nn.Parameter(heads.embed(grid_boxes(flow_cfg.NUM_QUERIES)), requires_grad=reached)


def build_blocks(flow_cfg: CfgNode, self_conditioned: bool) -> list[nn.Module]:
    """Builds the T blocks of `MODEL.FLOW_DET`.

    Raises:
        ValueError: unknown `BLOCK`.
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
        sample_channels=flow_cfg.BOX_SAMPLE_CHANNELS,
        sample_hidden_dim=flow_cfg.BOX_SAMPLE_HIDDEN_DIM,
    )


def build_query_positions(
    flow_cfg: CfgNode, encoding: SinePositionalEncoding, heads: DetectionHeads
) -> QueryPositionalEncoding | None:
    """Builds the positional encodings of anchored queries; None without `ANCHORED_QUERIES`.

    Raises:
        ValueError: box-anchored attention without anchored queries, or box samples without
            box-anchored attention.
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


def check_num_classes(flow_cfg: CfgNode) -> None:
    """Raises ValueError if the number of classes is not set."""
    if flow_cfg.NUM_CLASSES < 1:
        raise ValueError(
            f"MODEL.FLOW_DET.NUM_CLASSES must be at least 1, got {flow_cfg.NUM_CLASSES} "
            "(flowdet.engine.resolve_config takes it from the dataset)"
        )


def _check_sizes(flow_cfg: CfgNode) -> None:
    check_num_classes(flow_cfg)
    for key in ("NUM_QUERIES", "NUM_BLOCKS", "NUM_HEADS"):
        if flow_cfg[key] < 1:
            raise ValueError(f"MODEL.FLOW_DET.{key} must be at least 1, got {flow_cfg[key]}")
    if flow_cfg.HIDDEN_DIM % flow_cfg.NUM_HEADS:
        raise ValueError(
            f"MODEL.FLOW_DET.HIDDEN_DIM = {flow_cfg.HIDDEN_DIM} is not a multiple of NUM_HEADS = "
            f"{flow_cfg.NUM_HEADS}"
        )
