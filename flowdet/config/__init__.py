"""The config keys: defaults, valid values, explanations, and what they depend on.

- `rules`, `conditions`, `declaration`: how a key is declared.
- `blocks`, `detection`, `detection_peers`, `classification`, `classification_baselines`, `models`,
  `data`, `training`: the keys that flowdet adds to detectron2's.
- `detectron2_models`, `detectron2_training`: rules for detectron2's keys; `unread_keys`: those that
  flowdet does not read.
- `schema`: all of them.
- `settings`: the settings that models take from their keys.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdet.config.schema import add_flowdet_config, flat_items
    from flowdet.config.settings import (
        EncoderFormat,
        PixelSettings,
        encoder_format,
        inference_settings,
        pixel_settings,
        state_settings,
    )

__all__ = [
    "EncoderFormat",
    "PixelSettings",
    "add_flowdet_config",
    "encoder_format",
    "flat_items",
    "inference_settings",
    "pixel_settings",
    "state_settings",
]

_MODULES = {
    "add_flowdet_config": "flowdet.config.schema",
    "flat_items": "flowdet.config.schema",
    "EncoderFormat": "flowdet.config.settings",
    "PixelSettings": "flowdet.config.settings",
    "encoder_format": "flowdet.config.settings",
    "inference_settings": "flowdet.config.settings",
    "pixel_settings": "flowdet.config.settings",
    "state_settings": "flowdet.config.settings",
}


def __getattr__(name: str):
    """Imports an export when it is first used: the schema loads detectron2, errors do not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
