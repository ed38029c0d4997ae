"""Config keys, values and dataset names of earlier versions: old runs still load."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

_NODES = ("FLOW_DET", "FLOW_CLS")

# old name within a node -> new name
_KEYS = {
    "ASSIGNMENT": "MATCHING",
    "BACKGROUND_WEIGHT": "BACKGROUND_WEIGHT_PER_IMAGE",
    "CHAIN_STEPS": "ROLLOUT_STEPS",
    "PASS_LENGTH": "ITERS_PER_EPOCH",
    "QUALITY_TARGETS": "IOU_AWARE_TARGETS",
    "STABILITY_DRAWS": "STABILITY_SAMPLES",
}
# new name -> old value -> new value
_VALUES = {
    "MATCHING": {"own": "per_block", "carried": "shared"},
    "TRAINING_STATES": {"chain": "rollout"},
}
# the default of NUM_QUERIES when BACKGROUND_WEIGHT was the weight of a single query
_OLD_NUM_QUERIES = 20


def update_config(loaded: dict, source: str) -> None:
    """Renames old keys and values of a loaded config file in place; one warning per rename.

    Args:
        loaded: the nested dict of the file.
        source: the file, for the warnings.
    """
    for name in _NODES:
        node = loaded.get("MODEL", {}).get(name) or {}
        queries = node.get("NUM_QUERIES", _OLD_NUM_QUERIES)
        for key in list(node):
            new_key, value = _update(key, node[key], queries)
            if (new_key, value) != (key, node[key]):
                _warn(source, f"MODEL.{name}", key, new_key, node[key], value)
                del node[key]
                node[new_key] = value
    datasets = loaded.get("DATASETS", {})
    if datasets.get("PATH"):
        for split in ("TRAIN", "TEST"):
            if split in datasets:
                datasets[split] = tuple(
                    f"custom_{name.removeprefix('own_')}" if name.startswith("own_") else name
                    for name in datasets[split]
                )


def update_overrides(overrides: list, num_queries: int) -> list:
    """Overrides `[KEY, value, ...]` with old keys and values renamed; one warning per rename.

    Args:
        num_queries: `MODEL.FLOW_DET.NUM_QUERIES` of the config.
    """
    updated = list(overrides)
    for i in range(0, len(updated) - 1, 2):
        node, _, key = str(updated[i]).rpartition(".")
        if node.removeprefix("MODEL.") in _NODES:
            new_key, value = _update(key, updated[i + 1], num_queries)
            if (new_key, value) != (key, updated[i + 1]):
                _warn("an override", node, key, new_key, updated[i + 1], value)
                updated[i : i + 2] = f"{node}.{new_key}", value
    return updated


def _update(key: str, value: Any, num_queries: int) -> tuple[str, Any]:
    """The new key and value."""
    new_key = _KEYS.get(key, key)
    if key == "BACKGROUND_WEIGHT":
        return new_key, float(value) * num_queries
    if isinstance(value, str):
        value = _VALUES.get(new_key, {}).get(value, value)
    return new_key, value


def _warn(source: str, node: str, key: str, new_key: str, old: Any, new: Any) -> None:
    value = "" if new == old else f" (value {old!r} is now {new!r})"
    logger.warning("%s: the key %s.%s is now called %s%s", source, node, key, new_key, value)
