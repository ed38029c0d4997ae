"""FlowMatchingDetector, its end-to-end baseline and their parts.

Importing this package registers them with detectron2.
"""

from flowdet.detection.backbones import build_small_resnet_backbone
from flowdet.detection.backprop_detector import BackpropDetector
from flowdet.detection.detector import FlowMatchingDetector
from flowdet.detection.set_detector import SetDetector

__all__ = ["BackpropDetector", "FlowMatchingDetector", "SetDetector", "build_small_resnet_backbone"]
