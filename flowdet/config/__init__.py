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

from typing import TYPE_CHECKING

from flowdet.lazy_exports import lazy_exports

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

# the schema loads detectron2, errors do not
__getattr__ = lazy_exports(
    __name__,
    {
        "schema": ("add_flowdet_config", "flat_items"),
        "settings": (
            "EncoderFormat",
            "PixelSettings",
            "encoder_format",
            "inference_settings",
            "pixel_settings",
            "state_settings",
        ),
    },
)
