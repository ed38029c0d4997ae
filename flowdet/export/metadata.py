"""What a user of an exported file has to know beside the graph."""

from __future__ import annotations

import json

from detectron2.config import CfgNode

import flowdet
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.export.graphs import Graph
from flowdet.inference.predictor import BasePredictor


def metadata_of(predictor: BasePredictor, graph: Graph, noise_input: bool) -> dict[str, str]:
    """Texts by key; numbers, lists and truth values are written as JSON.

    Args:
        predictor: of the model that `graph` holds.
        graph: of that model.
        noise_input: whether the file takes noise.
    """
    cfg, flows = predictor.cfg, graph.noise is not None
    classifies = task_of(cfg) is CLASSIFICATION
    entries = {
        "task": "classification" if classifies else "detection",
        "description": graph.description,
        "class_names": predictor.class_names,
        "input_format": cfg.INPUT.FORMAT,
        "height": graph.size[0],
        "width": graph.size[1],
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": "average" if predictor.averaged else "last",
        **(_inference(graph) if flows else {}),
        "noise_input": noise_input,
        **({} if classifies else _rules(cfg, graph)),
        "flowdet_version": flowdet.__version__,
    }
    return {key: x if isinstance(x, str) else json.dumps(x) for key, x in entries.items()}


def _inference(graph: Graph) -> dict:
    """How the transport goes, and what its noise is."""
    model = graph.model
    return {
        "mode": model.settings.plan.name,
        "noise_scale": model.noise_scale,
        "noise_shape": list(graph.noise.shape[1:]),
    }


def _rules(cfg: CfgNode, graph: Graph) -> dict:
    """What becomes of the decoded queries."""
    node = cfg.MODEL.FLOW_DET
    return {
        "score_threshold": node.SCORE_THRESHOLD,
        "nms": graph.suppress,
        "nms_threshold": node.NMS_THRESHOLD,
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
