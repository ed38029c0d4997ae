"""Classifiers that are trained by other methods. Importing it registers them with detectron2."""

from flowdet.flowcls.baselines.backprop import BackpropClassifier

__all__ = ["BackpropClassifier"]
