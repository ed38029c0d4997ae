"""FlowMatchingDetector and its parts. Importing it registers them with detectron2."""

from flowdet.detection.backbones import build_small_resnet_backbone
from flowdet.detection.detector import FlowMatchingDetector

__all__ = ["FlowMatchingDetector", "build_small_resnet_backbone"]
