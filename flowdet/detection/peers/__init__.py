"""Detectors that flowdet is compared with: detectron2's Faster R-CNN and FCOS heads.

Backbone, neck and feature cache are those of flowdet's detectors, so that only the heads differ.

- `peer_detector`: the base class, from tokens to the feature maps that the heads get.
- `faster_rcnn`, `fcos`: the two models.

Importing this package registers the models with detectron2.
"""

from flowdet.detection.peers.faster_rcnn import FasterRCNNDetector
from flowdet.detection.peers.fcos import FCOSDetector
from flowdet.detection.peers.peer_detector import PeerDetector

__all__ = ["FCOSDetector", "FasterRCNNDetector", "PeerDetector"]
