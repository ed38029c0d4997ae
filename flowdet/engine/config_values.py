"""Checks the values of a config by the rules of its keys."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.config.errors import ConfigError
from flowdet.config.rules import device_type
from flowdet.config.schema import KEYS, defaults
from flowdet.engine.config_types import quoted, typed_example
from flowdet.engine.model_relations import check_model_relations
from flowdet.engine.training_relations import check_training_relations


def check_values(cfg: CfgNode) -> None:
    """Checks the values that inference and training need.

    Raises:
        ValueError: a value is out of range or unknown, or does not fit the value of another key.
            The message has the key, the value and what it must be.
    """
    values = dict(flat_items(cfg))
    _check_rules(values, training=False)
    check_model_relations(values)


def check_training_values(cfg: CfgNode) -> None:
    """Checks the values that only training needs. Call `check_values` before.

    Raises:
        ValueError: as `check_values`.
    """
    values = dict(flat_items(cfg))
    _check_rules(values, training=True)
    check_training_relations(values)


def _check_rules(values: dict[str, object], training: bool) -> None:
    for name, key in KEYS.items():
        # some versions of detectron2 lack some of its keys
        if key.training == training and name in values and not key.rule.accepts(values[name]):
            raise ConfigError(
                f"{name} is {values[name]!r}, but must be {key.rule.text}{key.rule.known_names}; "
                f"write, for example, {name} {example(name)}"
            )


def example(name: str) -> str:
    """Returns a valid value of a key as it is typed on the command line."""
    key, default = KEYS[name], defaults()[name]
    if default == "" and not key.example and not key.rule.accepts("text"):
        return '""'
    return quoted(key.example or typed_example(name, default))


def check_device(cfg: CfgNode) -> None:
    """Checks that the machine has the device of a config. The type of the device must be valid.

    Raises:
        ValueError: torch finds no such device.
    """
    name = cfg.MODEL.DEVICE
    if device_type(name) == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but torch finds no such device; write MODEL.DEVICE cpu"
        )
    index, count = torch.device(name).index, torch.cuda.device_count()
    if device_type(name) == "cuda" and index is not None and index >= count:
        raise ConfigError(
            f"MODEL.DEVICE is {name!r}, but torch finds {count} GPUs; write, for example, "
            "MODEL.DEVICE cuda:0"
        )
