"""Image classification by the same flow: FlowMatchingClassifier, its baseline, its data.

Importing it registers them with detectron2.
"""

from flowdet.flowcls import backbones, datasets  # noqa: F401
from flowdet.flowcls.base import Classifier
from flowdet.flowcls.baselines import BackpropClassifier
from flowdet.flowcls.classifier import FlowMatchingClassifier

__all__ = ["BackpropClassifier", "Classifier", "FlowMatchingClassifier"]
