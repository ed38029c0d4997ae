"""The metadata of an exported file, with which its users prepare inputs and read outputs."""

from __future__ import annotations

import json

from detectron2.config import CfgNode

import flowdet
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.export.graphs import Graph
from flowdet.inference.predictor import BasePredictor


def metadata_of(predictor: BasePredictor, graph: Graph, noise_input: bool) -> dict[str, str]:
    """Collects the metadata as strings by key; numbers, lists and booleans are written as JSON.

    Args:
        predictor: the predictor of the exported model.
        graph: the graph of the model.
        noise_input: whether the file has an input for the noise.
    """
    cfg, has_flow = predictor.cfg, graph.noise is not None
    is_classifier = task_of(cfg) is CLASSIFICATION
    category_ids = list(cfg.MODEL.CATEGORY_IDS)
    entries = {
        "task": "classification" if is_classifier else "detection",
        "description": graph.description,
        "class_names": predictor.class_names,
        "input_format": cfg.INPUT.FORMAT,
        # of images that are not 8-bit; other values would be scaled to other pixels
        **({"value_range": list(cfg.INPUT.VALUE_RANGE)} if cfg.INPUT.VALUE_RANGE else {}),
        "height": graph.size[0],
        "width": graph.size[1],
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": "average" if predictor.averaged else "last",
        **(_inference(graph) if has_flow else {}),
        "noise_input": noise_input,
        **({} if is_classifier else _postprocessing(cfg, graph)),
        **({"category_ids": category_ids} if category_ids else {}),
        "flowdet_version": flowdet.__version__,
    }
    return {key: x if isinstance(x, str) else json.dumps(x) for key, x in entries.items()}


def _inference(graph: Graph) -> dict:
    """Returns the inference mode, and the standard deviation and shape of the initial noise."""
    model = graph.model
    return {
        "mode": model.settings.plan.name,
        "noise_scale": model.noise_scale,
        "noise_shape": list(graph.noise.shape[1:]),
    }


def _postprocessing(cfg: CfgNode, graph: Graph) -> dict:
    """Returns the settings of the postprocessing of a detector."""
    node = cfg.MODEL.FLOW_DET
    return {
        "score_threshold": node.SCORE_THRESHOLD,
        "nms": graph.suppress,
        "nms_threshold": node.NMS_THRESHOLD,
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
