"""detectron2's keys that no model and no command of flowdet reads, with the reason."""

from __future__ import annotations

_NO_MASKS = "flowdet detects boxes, not masks or keypoints"
_NO_PROPOSAL_FILES = "flowdet's detectors make their proposals themselves"
_NO_AUGMENTED_TESTS = "flowdet evaluates every image once"

# beginning of the name of keys, and why they have no effect
UNREAD_KEYS = {
    "VERSION": "it is the version of detectron2's config format",
    "VIS_PERIOD": "TEST.SAMPLE_IMAGES chooses the images that flowdet draws",
    "GLOBAL.HACK": "it is only for experiments with detectron2's code",
    "MODEL.LOAD_PROPOSALS": _NO_PROPOSAL_FILES,
    "MODEL.ROI_MASK_HEAD.": _NO_MASKS,
    "MODEL.ROI_KEYPOINT_HEAD.": _NO_MASKS,
    "MODEL.SEM_SEG_HEAD.": _NO_MASKS,
    "MODEL.PANOPTIC_FPN.": _NO_MASKS,
    "MODEL.RETINANET.": "RetinaNet is not one of flowdet's detectors",
    "MODEL.ANCHOR_GENERATOR.ANGLES": "flowdet's boxes have no angle",
    "INPUT.MASK_FORMAT": _NO_MASKS,
    "DATASETS.PROPOSAL_FILES_": _NO_PROPOSAL_FILES,
    "DATASETS.PRECOMPUTED_PROPOSAL_": _NO_PROPOSAL_FILES,
    "TEST.KEYPOINT_OKS_SIGMAS": _NO_MASKS,
    "TEST.AUG.": _NO_AUGMENTED_TESTS,
}


def reason_unread(key: str) -> str:
    """Returns why a key of detectron2 has no effect; "" if it may have one."""
    return next((text for start, text in UNREAD_KEYS.items() if key.startswith(start)), "")
