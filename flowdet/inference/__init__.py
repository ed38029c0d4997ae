"""Inference on images and videos: predictors, `flowdet.load`, readers of inputs, result writers."""

from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor

__all__ = ["ClassPredictor", "Predictor"]
