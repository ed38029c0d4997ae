"""All declared config keys: flowdet's, with their defaults, and detectron2's that flowdet reads."""

from __future__ import annotations

from functools import cache

from detectron2.config import CfgNode, get_cfg

from flowdet.config import (
    classification,
    classification_baselines,
    data,
    detection,
    detection_peers,
    detectron2_models,
    detectron2_training,
    models,
    training,
)
from flowdet.config.declaration import Key, Section

# the keys that flowdet adds to detectron2's
SECTIONS: tuple[Section, ...] = (
    *models.GENERAL,
    detection.SECTION,
    classification.SECTION,
    *classification_baselines.SECTIONS,
    *detection_peers.SECTIONS,
    *models.BACKBONES,
    *data.SECTIONS,
    *training.SECTIONS,
)
DETECTRON2_SECTIONS: tuple[Section, ...] = (
    *detectron2_models.SECTIONS,
    *detectron2_training.DATA,
    *detectron2_training.SOLVER,
    *detectron2_training.EVALUATION,
)
KEYS: dict[str, Key] = {
    name: key for section in (*SECTIONS, *DETECTRON2_SECTIONS) for name, key in section.keys()
}


def add_flowdet_config(cfg: CfgNode) -> None:
    """Adds flowdet's keys to a detectron2 config, in place.

    The defaults are the recommended recipe, which `configs/voc_flow_r50.yaml` uses for detection.
    The configs of the digits override some of them for small images. The configs in
    `configs/paper/` set the paper's values. `flowdet.add_flowdet_config` also registers the models
    and datasets.
    """
    for section in SECTIONS:
        node = cfg
        for part in filter(None, section.node.split(".")):
            node = node.setdefault(part, CfgNode())
        for name, key in section.keys():
            node[name.rpartition(".")[2]] = _copied(key.default)


def _copied(default: object) -> object:
    """Returns a default; a list is copied, so that a change of one config is not one of others."""
    return list(default) if isinstance(default, list) else default


@cache
def defaults() -> dict[str, object]:
    """Returns the default of every key, flowdet's and detectron2's, by full name."""
    cfg = get_cfg()
    add_flowdet_config(cfg)
    return {name: value for name, value in flat_items(cfg) if not isinstance(value, CfgNode)}


def flat_items(node: CfgNode, prefix: str = "") -> list[tuple[str, object]]:
    """Returns every key of a config, such as `MODEL.DEVICE`, and its value; also the nodes."""
    items = []
    for name, value in node.items():
        items.append((prefix + name, value))
        if isinstance(value, CfgNode):
            items += flat_items(value, f"{prefix}{name}.")
    return items
