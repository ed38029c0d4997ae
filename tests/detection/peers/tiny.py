"""Small Faster R-CNN and FCOS detectors for the tests of the peers."""

import torch
from detectron2.modeling import build_model

from flowdet.detection import PeerDetector
from flowdet.engine.config import with_keys
from tests.detection.tiny import tiny_cfg

PEERS = ("FasterRCNNDetector", "FCOSDetector")
KEYS = {
    "MODEL.RPN.IN_FEATURES": ["res3"],
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[12, 24, 48]],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res3"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
    "MODEL.FCOS.NUM_CONVS": 1,
}
FROZEN = {"MODEL.BACKBONE.FREEZE_AT": 5, "MODEL.RESNETS.NORM": "FrozenBN"}


def peer_cfg(architecture: str, keys=None, **flow_keys):
    """A config with d = 32, 3 classes and feature maps of stride 8."""
    cfg = tiny_cfg("digits_flow.yaml", **flow_keys)
    return with_keys(cfg, {"MODEL.META_ARCHITECTURE": architecture, **KEYS, **(keys or {})})


def tiny_peer(architecture: str, keys=None, seed: int = 0, **flow_keys) -> PeerDetector:
    """The detector of `peer_cfg`, with weights that depend on the seed only."""
    torch.manual_seed(seed)
    return build_model(peer_cfg(architecture, keys, **flow_keys))
