"""Image classification: FlowMatchingClassifier and its end-to-end baseline.

Importing this package registers both, and their backbones, with detectron2.
"""

from flowdet.flowcls import backbones  # noqa: F401
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.baselines import BackpropClassifier
from flowdet.flowcls.classifier import FlowMatchingClassifier

__all__ = ["BackpropClassifier", "Classifier", "FlowMatchingClassifier"]
