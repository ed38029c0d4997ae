"""Checks of detectron2's config keys for the models that have a region proposal network (RPN).

`flowdet.engine.config_values` checks the keys one by one. Here are the checks that depend on other
keys, and the errors of detectron2's own checks.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode


@contextmanager
def one_line_errors(nodes: str) -> Iterator[None]:
    """Turns errors in the construction of detectron2's modules into a ValueError of one line.

    Args:
        nodes: the config nodes that configure the modules, for the message.

    Raises:
        ValueError: an assertion of detectron2 fails, or a name is not registered.
    """
    try:
        yield
    except (AssertionError, KeyError) as error:
        # many assertions have no text; their source line says what must hold
        line = traceback.extract_tb(error.__traceback__)[-1].line
        reason = str(error.args[0] if error.args else "") or line or type(error).__name__
        raise ValueError(
            f"the keys in {nodes} do not fit each other: {' '.join(reason.split())}"
        ) from error


def check_anchors(cfg: CfgNode, num_maps: int) -> None:
    """Raises ValueError if the anchors are given for another number of feature maps."""
    for name in ("SIZES", "ASPECT_RATIOS"):
        rows = cfg.MODEL.ANCHOR_GENERATOR[name]
        if rows and isinstance(rows[0], (list, tuple)) and len(rows) not in (1, num_maps):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.{name} is {list(rows)}, whose {len(rows)} lists do not "
                f"fit the number of feature maps, {num_maps}: give one list, or one for each"
            )


def check_min_size(cfg: CfgNode) -> None:
    """Raises ValueError if no box in an image is as large as `PROPOSAL_GENERATOR.MIN_SIZE`."""
    smallest, side = cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE, _shorter_side(cfg)
    if smallest >= side:
        raise ValueError(
            f"MODEL.PROPOSAL_GENERATOR.MIN_SIZE is {smallest}, but must be below {side}, the "
            "shorter side of the largest training images (INPUT.FIXED_SIZE, MIN_SIZE_TRAIN): no "
            "proposal would remain"
        )


def _shorter_side(cfg: CfgNode) -> float:
    """Returns the shorter side of the largest training images in pixels; inf if unknown."""
    if all(cfg.INPUT.FIXED_SIZE):
        return min(cfg.INPUT.FIXED_SIZE)
    # 0 keeps the size of the image file
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    return max(sides) if all(sides) else math.inf


def check_proposal_queries(cfg: CfgNode, names: list[str]) -> None:
    """Checks the keys of the network whose proposals start `PROPOSAL_QUERIES`.

    Args:
        cfg: the config.
        names: the names of the feature maps of the neck.

    Raises:
        ValueError: a key has a value that the network does not use, or the network has fewer
            proposals than `PROPOSAL_QUERIES`.
    """
    model = cfg.MODEL
    if model.PROPOSAL_GENERATOR.NAME != "RPN":
        raise ValueError(
            f"MODEL.PROPOSAL_GENERATOR.NAME is {model.PROPOSAL_GENERATOR.NAME!r}, but the "
            "proposals of MODEL.FLOW_DET.PROPOSAL_QUERIES are those of an RPN: set it to RPN"
        )
    # detectron2's default is not meant for the neck
    if sorted(model.RPN.IN_FEATURES) not in (["res4"], sorted(names)):
        raise ValueError(
            f"MODEL.RPN.IN_FEATURES is {list(model.RPN.IN_FEATURES)}, but the proposal network "
            f"reads all feature maps of MODEL.FLOW_DET.IN_FEATURES, {list(names)}: leave it out"
        )
    _check_count(cfg, len(names))
    check_anchors(cfg, len(names))
    check_min_size(cfg)


def _check_count(cfg: CfgNode, num_maps: int) -> None:
    """Raises ValueError if an image always has fewer proposals than `PROPOSAL_QUERIES`."""
    queries, rpn = cfg.MODEL.FLOW_DET.PROPOSAL_QUERIES, cfg.MODEL.RPN
    most = {
        "POST_NMS_TOPK_TRAIN": rpn.POST_NMS_TOPK_TRAIN,
        "PRE_NMS_TOPK_TRAIN": rpn.PRE_NMS_TOPK_TRAIN * num_maps,
    }
    for key, count in most.items():
        if queries > count:
            per_map = f" for each of {num_maps} feature maps" if count != rpn[key] else ""
            raise ValueError(
                f"MODEL.FLOW_DET.PROPOSAL_QUERIES is {queries}, but must be at most {count}, "
                f"because MODEL.RPN.{key} is {rpn[key]}{per_map}: lower PROPOSAL_QUERIES, or raise "
                f"MODEL.RPN.{key}"
            )
