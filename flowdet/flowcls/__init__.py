"""Image classification: FlowMatchingClassifier and the methods it is compared with.

Importing this package registers them, and their backbones, with detectron2.
"""

from flowdet.flowcls import backbones  # noqa: F401
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.baselines import BackpropClassifier, LocalClassifier
from flowdet.flowcls.classifier import FlowMatchingClassifier

__all__ = ["BackpropClassifier", "Classifier", "FlowMatchingClassifier", "LocalClassifier"]
