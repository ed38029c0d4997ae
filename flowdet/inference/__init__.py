"""Inference on images and videos: predictors, `flowdet.load`, readers of inputs, result writers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdet.inference.classifier_predictor import ClassPredictor
    from flowdet.inference.predictor import Predictor

__all__ = ["ClassPredictor", "Predictor"]

_MODULES = {
    "ClassPredictor": "flowdet.inference.classifier_predictor",
    "Predictor": "flowdet.inference.predictor",
}


def __getattr__(name: str):
    """Imports an export when it is first used: predictors load torch, `output_formats` not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
