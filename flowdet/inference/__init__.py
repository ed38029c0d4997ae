"""Inference on images and videos: predictors, `flowdet.load`, readers and writers."""

from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor

__all__ = ["ClassPredictor", "Predictor"]
