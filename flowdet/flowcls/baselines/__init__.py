"""Classifiers that are trained by other methods than flow matching.

Importing this package registers them with detectron2.
"""

from flowdet.flowcls.baselines.backprop import BackpropClassifier

__all__ = ["BackpropClassifier"]
