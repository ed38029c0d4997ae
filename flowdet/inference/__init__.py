"""Inference on images and videos: predictors, `flowdet.load`, readers of inputs, result writers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowdet.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from flowdet.inference.classifier_predictor import ClassPredictor
    from flowdet.inference.predictor import Predictor

__all__ = ["ClassPredictor", "Predictor"]

# predictors load torch, `output_formats` does not
__getattr__ = lazy_exports(
    __name__,
    {
        "classifier_predictor": ("ClassPredictor",),
        "predictor": ("Predictor",),
    },
)
