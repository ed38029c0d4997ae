"""Renames config keys, values and dataset names of earlier versions, so that old runs load."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.utils.logger import log_first_n

from flowdet.engine.config_types import typed_value

_NODES = ("MODEL.FLOW_DET", "MODEL.FLOW_CLS")

# old key of a node -> new key
_KEYS = {
    "ASSIGNMENT": "MATCHING",
    "BACKGROUND_WEIGHT": "BACKGROUND_WEIGHT_PER_IMAGE",
    "CHAIN_STEPS": "ROLLOUT_STEPS",
    "PASS_LENGTH": "ITERS_PER_EPOCH",
    "QUALITY_TARGETS": "IOU_AWARE_TARGETS",
    "STABILITY_DRAWS": "STABILITY_SAMPLES",
}
# new key -> old value -> new value
_VALUES = {
    "MATCHING": {"own": "per_block", "carried": "shared"},
    "TRAINING_STATES": {"chain": "rollout"},
}


def is_old_key(key: str) -> bool:
    """Returns whether an earlier version had a key, such as `MODEL.FLOW_DET.ASSIGNMENT`."""
    node, _, name = key.rpartition(".")
    return node in _NODES and name in _KEYS


def update_config(loaded: dict, source: str, num_queries: int) -> None:
    """Renames old keys and values of a loaded config file, in place. Each is logged once.

    Args:
        loaded: nested dict of the keys in the file and its bases.
        source: path of the file, for the warnings.
        num_queries: `MODEL.FLOW_DET.NUM_QUERIES` if the file does not set it.
    """
    for name in _NODES:
        node = _group(_group(loaded, "MODEL"), name.removeprefix("MODEL."))
        queries = _count(node.get("NUM_QUERIES"), num_queries)
        for key, value in list(node.items()):
            new_key, new_value = _renamed(f"{name}.{key}", key, value, queries)
            if (new_key, new_value) != (key, value):
                _warn(source, f"{name}.{key}", f"{name}.{new_key}", value, new_value)
                del node[key]
                node[new_key] = new_value
    datasets = _group(loaded, "DATASETS")
    if datasets.get("PATH"):
        _rename_custom_datasets(datasets, source)


def update_overrides(overrides: list, num_queries: int) -> list:
    """Returns overrides in which old keys and values are renamed. Each is logged once.

    Args:
        overrides: `[KEY, value, KEY, value, ...]`; the list is not changed.
        num_queries: `MODEL.FLOW_DET.NUM_QUERIES` if the overrides do not set it.
    """
    given = dict(zip(overrides[::2], overrides[1::2]))
    queries = _count(given.get("MODEL.FLOW_DET.NUM_QUERIES"), num_queries)
    updated = list(overrides)
    for i in range(0, len(updated) - 1, 2):
        node, _, key = str(updated[i]).rpartition(".")
        if node not in _NODES:
            continue
        value = updated[i + 1]
        new_key, new_value = _renamed(str(updated[i]), key, value, queries)
        if (new_key, new_value) != (key, value):
            _warn("an override", f"{node}.{key}", f"{node}.{new_key}", value, new_value)
            updated[i : i + 2] = f"{node}.{new_key}", new_value
    return updated


def _group(loaded: dict, name: str) -> dict:
    """Returns a group of keys in a config file; {} if the file does not have it."""
    group = loaded.get(name)
    return group if isinstance(group, dict) else {}


def _count(value: Any, default: int) -> int:
    """Returns a number of queries; the default if it is missing or not an integer."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def _renamed(full_key: str, key: str, value: Any, num_queries: int) -> tuple[str, Any]:
    """Returns the new key and value for a key of a node.

    Raises:
        ValueError: the weight of the background is not a number.
    """
    new_key = _KEYS.get(key, key)
    if key == "BACKGROUND_WEIGHT":
        # the old key was the weight of one query
        return new_key, typed_value(full_key, value, 0.0) * num_queries
    if isinstance(value, str):
        value = _VALUES.get(new_key, {}).get(value, value)
    return new_key, value


def _rename_custom_datasets(datasets: dict, source: str) -> None:
    for split in ("TRAIN", "TEST"):
        names = datasets.get(split)
        # the configs of runs have lists; a string is an expression that a user wrote
        if not isinstance(names, (list, tuple)):
            continue
        new_names = [
            f"custom_{name.removeprefix('own_')}" if str(name).startswith("own_") else name
            for name in names
        ]
        if new_names != [*names]:
            _warn(source, f"DATASETS.{split}", f"DATASETS.{split}", names, new_names)
            datasets[split] = new_names


def _warn(source: str, key: str, new_key: str, value: Any, new_value: Any) -> None:
    old, new = key, new_key
    if new_value != value:
        old, new = f"{old} {value!r}", f"{new} {new_value!r}"
    message = f"{source}: {old} is now {new}"
    # a run may load its config several times
    log_first_n(logging.WARNING, message, name=__name__, key="message")
