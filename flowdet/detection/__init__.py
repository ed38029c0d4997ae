"""FlowMatchingDetector, the detectors that it is compared with, and their parts.

- `detector`, `backprop_detector`, `box_transport`: the models; `set_detector` is what they share.
- `peers`: Faster R-CNN and FCOS; `base_detector` is what all detectors share.
- `backbones`, `feature_cache`, `neck`: from images to tokens.
- `tokens`, `position`: image tokens and their sampling at a query's box; positional encodings.
- `transformer_block`, `attention`, `heads`: a flow block, and the decoding of its estimate.
- `targets`, `matcher`, `criterion`, `block_losses`, `layer_losses`: the losses.
- `postprocess`, `stability`: from the last estimate to scored detections.
- `boxes`: box arithmetic.
- `build`: the parts from a config.

Importing this package registers the models with detectron2.
"""

from flowdet.detection.backbones import build_small_resnet_backbone
from flowdet.detection.backprop_detector import BackpropDetector
from flowdet.detection.box_transport import BoxTransportDetector
from flowdet.detection.detector import FlowMatchingDetector
from flowdet.detection.peers import FasterRCNNDetector, FCOSDetector, PeerDetector
from flowdet.detection.set_detector import SetDetector

__all__ = [
    "BackpropDetector",
    "BoxTransportDetector",
    "FCOSDetector",
    "FasterRCNNDetector",
    "FlowMatchingDetector",
    "PeerDetector",
    "SetDetector",
    "build_small_resnet_backbone",
]
