"""The parts of a detector from `MODEL.FLOW_DET`."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

from flowdet.detection.criterion import SetCriterion
from flowdet.detection.heads import DetectionHeads, grid_boxes
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.neck import TokenNeck
from flowdet.detection.position import QueryPositions, SineCode
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.stability import Stability
from flowdet.flow import FlowEnsemble, TimeEmbedding, TransformerFlowBlock
from flowdet.registry import registered

DETECTION_BLOCK_REGISTRY = Registry("DETECTION_BLOCK")
DETECTION_BLOCK_REGISTRY.__doc__ = """
Flow blocks of a detector, by the name that `MODEL.FLOW_DET.BLOCK` gives. Called with the node
`MODEL.FLOW_DET` and `self_conditioned`; what it returns is called like `TransformerFlowBlock`.
"""


def build_shared_parts(cfg: CfgNode) -> dict:
    """What a detector consists of whatever trains its blocks, as keyword arguments.

    Raises:
        ValueError: `MODEL.FLOW_DET.IN_FEATURES` names a feature map that is not there, or a
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
    code = SineCode(dim, flow_cfg.POSITION_MAX_FREQUENCY)
    in_shapes = [shapes[name] for name in flow_cfg.IN_FEATURES]
    costs = (flow_cfg.CLASS_WEIGHT, flow_cfg.BBOX_WEIGHT, flow_cfg.GIOU_WEIGHT)
    return {
        "backbone": backbone,
        "in_features": flow_cfg.IN_FEATURES,
        "neck": TokenNeck(in_shapes, dim, code, flow_cfg.NECK_NORM, flow_cfg.NECK_BLOCKS),
        "heads": DetectionHeads(dim, num_classes, flow_cfg.BOX_HEAD),
        "matcher": HungarianMatcher(*costs),
        "criterion": SetCriterion(
            num_classes, *costs, flow_cfg.BACKGROUND_WEIGHT, flow_cfg.QUALITY_TARGETS
        ),
        "assignment": flow_cfg.ASSIGNMENT,
        "postprocess": PostProcessor(
            flow_cfg.SCORE_THRESHOLD, flow_cfg.NMS_THRESHOLD, cfg.TEST.DETECTIONS_PER_IMAGE
        ),
        "num_queries": flow_cfg.NUM_QUERIES,
        "feature_cache_gib": flow_cfg.FEATURE_CACHE_GIB,
        "feature_cache_dir": flow_cfg.FEATURE_CACHE_DIR,
        "stability": _stability(flow_cfg),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }


def _stability(flow_cfg: CfgNode) -> Stability | None:
    draws, shape = flow_cfg.STABILITY_DRAWS, (flow_cfg.NUM_QUERIES, flow_cfg.HIDDEN_DIM)
    return Stability(draws, flow_cfg.STABILITY_NOISE, shape, flow_cfg.NOISE_SEED) if draws else None


def build_flow(flow_cfg: CfgNode, code: SineCode, heads: DetectionHeads) -> FlowEnsemble:
    """The flow ensemble of `MODEL.FLOW_DET`.

    Raises:
        ValueError: keys that need each other are not on together.
    """
    positions = build_query_positions(flow_cfg, code, heads)
    anchored = flow_cfg.ANCHORED_QUERIES
    if (flow_cfg.SELF_CONDITIONING or flow_cfg.PREDICTION == "target") and not anchored:
        raise ValueError(
            "MODEL.FLOW_DET.SELF_CONDITIONING and PREDICTION target need a first estimate: set "
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
    """[M, d]; learned where something passes a gradient to them."""
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
    """Queries x image tokens."""
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
    flow_cfg: CfgNode, code: SineCode, heads: DetectionHeads
) -> QueryPositions | None:
    """Position codes for anchored queries; None if they are not anchored.

    Raises:
        ValueError: box-anchored attention without anchors, or box samples without it.
    """
    if flow_cfg.BOX_SAMPLES and not flow_cfg.BOX_ANCHORED_ATTENTION:
        raise ValueError(
            "MODEL.FLOW_DET.BOX_SAMPLES are taken in the estimate's box: they need "
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION True"
        )
    if not flow_cfg.ANCHORED_QUERIES and flow_cfg.BOX_ANCHORED_ATTENTION:
        raise ValueError(
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION looks where the estimate's box is: it needs "
            "MODEL.FLOW_DET.ANCHORED_QUERIES True"
        )
    if not flow_cfg.ANCHORED_QUERIES:
        return None
    decode = heads.boxes if flow_cfg.BOX_ANCHORED_ATTENTION else None
    anchors, samples = grid_boxes(flow_cfg.NUM_QUERIES), flow_cfg.BOX_SAMPLES
    return QueryPositions(code, flow_cfg.HIDDEN_DIM, anchors, decode, samples)


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
