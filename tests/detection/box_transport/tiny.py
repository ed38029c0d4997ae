"""Small box transport detectors for the tests."""

import torch
from detectron2.modeling import build_model

from flowdet.detection import BoxTransportDetector
from flowdet.engine.config import with_keys
from tests.detection.tiny import tiny_cfg

BOX_PATHS = ("diffusion", "flow")


def box_cfg(path: str = "diffusion", keys=None, **flow_keys):
    """A config with d = 32, 3 classes, 6 queries and 3 blocks."""
    own = {
        "MODEL.META_ARCHITECTURE": "BoxTransportDetector",
        "MODEL.BOX_TRANSPORT.PATH": path,
        # untrained models have scores around it
        "MODEL.BOX_TRANSPORT.BOX_RENEWAL": 0.3,
    }
    return with_keys(tiny_cfg("digits_backprop.yaml", **flow_keys), own | (keys or {}))


def tiny_box_model(
    path: str = "diffusion", keys=None, seed: int = 0, **flow_keys
) -> BoxTransportDetector:
    """The detector of `box_cfg`, with weights that depend on the seed only."""
    torch.manual_seed(seed)
    return build_model(box_cfg(path, keys, **flow_keys))
