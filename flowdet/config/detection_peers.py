"""The keys of the detectors that flowdet is compared with."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import has, read_by
from flowdet.config.declaration import Key, Section, group

_BOX_TRANSPORT = (
    group(
        'Path of the boxes of BoxTransportDetector, from noise to objects: "diffusion" '
        '(DiffusionDet) or "flow" (DeFloMat: straight lines). Its other parts have the keys of '
        "FLOW_DET, of which those for flow blocks, training states and inference modes have no "
        "effect.",
        PATH=Key("diffusion", r.one_of("diffusion", "flow")),
    ),
    group(
        "Boxes (normalized cxcywh) are scaled from [0, 1] to [-SIGNAL_SCALE, SIGNAL_SCALE]. "
        "The noise has standard deviation 1.",
        SIGNAL_SCALE=Key(2.0, r.above(0, 1000)),
    ),
    group(
        "Number of time steps of the cosine schedule, for PATH diffusion.",
        NUM_TIMESTEPS=Key(1000, r.COUNT, (has("PATH", "diffusion"),)),
    ),
    group(
        "Noise of the DDIM steps, for PATH diffusion: from 0 (none) to 1 (as much as DDPM).",
        DDIM_ETA=Key(1.0, r.FRACTION, (has("PATH", "diffusion"),)),
    ),
    group(
        "Number of sampling steps at inference.",
        NUM_STEPS=Key(4, r.at_least(1, 10_000)),
    ),
    group(
        "Between two steps, boxes whose best class probability is below this value are "
        "replaced by random boxes. 0 is off.",
        BOX_RENEWAL=Key(0.1, r.FRACTION),
    ),
    group(
        "Whether the detections of all steps are merged by non-maximum suppression. Otherwise "
        "only those of the last step count.",
        ENSEMBLE_STEPS=Key(True, r.TRUE_OR_FALSE),
    ),
)

_FCOS = (
    group(
        "The head of FCOSDetector: number of 3x3 convolutions before the outputs, for classes "
        'and for boxes, and their normalization ("" for none). They have '
        "MODEL.FLOW_DET.HIDDEN_DIM channels. Of the other keys of MODEL.FLOW_DET, detectors "
        "without queries read those of classes, features, neck and feature cache, "
        "SCORE_THRESHOLD and NMS_THRESHOLD.",
        NUM_CONVS=Key(4, r.at_least(1, 100)),
        NORM=Key("GN", r.NORM),
    ),
    group(
        "Initial probability of every class at every location.",
        PRIOR_PROB=Key(0.01, r.between(0, 1)),
    ),
    group(
        "A location is positive if it lies in a box, and within this many strides of its center.",
        CENTER_SAMPLING_RADIUS=Key(1.5, r.above(0, r.MOST)),
    ),
    group(
        "The focal loss of the classes: weight of the positive locations, and exponent.",
        FOCAL_LOSS_ALPHA=Key(0.25, r.FRACTION),
        FOCAL_LOSS_GAMMA=Key(2.0, r.at_least(0, 100)),
    ),
    group(
        "Maximum number of predictions per feature map before non-maximum suppression.",
        TOPK_CANDIDATES=Key(1000, r.COUNT),
    ),
)

SECTIONS = (
    Section("MODEL.BOX_TRANSPORT", _BOX_TRANSPORT, (read_by("BoxTransportDetector"),)),
    Section("MODEL.FCOS", _FCOS, (read_by("FCOSDetector"),)),
)
