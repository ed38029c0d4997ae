"""Checks the values of a config: numbers in their range, names among the known ones.

The other keys are checked by the code that reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY
from detectron2.utils.registry import Registry

from flowdet.data.custom.findings import ON_PROBLEM
from flowdet.data.pixel_values import is_value_range
from flowdet.detection.box_transport.paths import PATHS
from flowdet.engine.config_types import flat_items
from flowdet.flow import PREDICTIONS
from flowdet.flowcls.baselines.forward_forward import INFERENCES
from flowdet.flowcls.baselines.label_overlay import LABELS
from flowdet.flowcls.baselines.layer_collaboration import COLLABORATIONS
from flowdet.flowcls.baselines.noprop import EMBEDDINGS, VARIANTS

_BATCH_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN")
_RESNET_STAGES = ("stem", "res2", "res3", "res4", "res5")
_SMALL_RESNET_STAGES = _RESNET_STAGES[:3]
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_SHALLOW_RESNETS = (18, 34)
_SHALLOW_RESNET_KEYS = {
    "RES2_OUT_CHANNELS": 64,
    "RES5_DILATION": 1,
    "NUM_GROUPS": 1,
    "DEFORM_ON_PER_STAGE": [False] * 4,
}


@dataclass(frozen=True)
class _Rule:
    """What the value of a key must be.

    Attributes:
        accepts: returns whether a value is valid.
        text: completes "must be ...".
        example: a valid value as it is typed on the command line.
    """

    accepts: Callable[[object], bool]
    text: str
    example: object


def _at_least(low: float, example: object, high: float = math.inf) -> _Rule:
    """The value is a number from `low` to `high`."""
    text = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
    return _Rule(lambda x: low <= x <= high, text, example)


def _above_zero(example: object) -> _Rule:
    return _Rule(lambda x: x > 0, "above 0", example)


def _one_of(names: Iterable, example: object) -> _Rule:
    names = tuple(names)
    listed = ", ".join(repr(x) if x == "" else str(x) for x in names)
    return _Rule(lambda x: x in names, f"one of {listed}", example)


def _each(rule: _Rule, example: str, count: int | None = None) -> _Rule:
    """The value is a list of `count` values (None for at least one) that fulfill a rule."""

    def accepts(values: Iterable) -> bool:
        values = list(values)
        right_count = len(values) == count if count else bool(values)
        return right_count and all(map(rule.accepts, values))

    text = f"{count} values" if count else "a list of at least one value"
    return _Rule(accepts, f"{text}, each {rule.text}", example)


def _increasing(values: Iterable) -> bool:
    values = list(values)
    return all(x >= 0 for x in values) and values == sorted(set(values))


def _registered(key: str, example: str) -> _Rule:
    """The value is a name in the registry of a key."""
    # the names are read when the rule is used: IMPORTS may register further parts
    return _Rule(lambda name: name in _registered_names(key), "a registered name", example)


def _registered_names(key: str) -> list[str]:
    return sorted({name for name, _ in _REGISTRIES[key]} - _FOR_ROTATED_BOXES)


def _are_anchors(values: Iterable) -> bool:
    """Whether values are positive numbers, or a list of such a list for every feature map."""
    values = list(values)
    nested = [isinstance(x, (list, tuple)) for x in values]
    rows = values if any(nested) else [values]
    return (all(nested) or not any(nested)) and all(
        len(row) and all(_is_number(x) and x > 0 for x in row) for row in rows
    )


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def _are_thresholds(values: Iterable) -> bool:
    values = list(values)
    return bool(values) and values == sorted(values) and 0 < values[0] and values[-1] <= 1


def _are_labels(values: Iterable) -> bool:
    values = list(values)
    return {0, 1} <= {*values} <= {-1, 0, 1} and values[-1] == 1 != values[0]


_ANY_NUMBER = _Rule(lambda x: True, "a number", "0")

_REGISTRIES: dict[str, Registry] = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
}
# parts of detectron2 for boxes with an angle, which no dataset of flowdet has
_FOR_ROTATED_BOXES = {"RRPN", "RotatedAnchorGenerator", "RROIHeads"}

_FRACTION = _Rule(lambda x: 0 < x <= 1, "above 0 and at most 1", "0.5")
_ANCHORS = "a list of numbers above 0, or such a list for every feature map"
_NAMED_FEATURES = _Rule(bool, "a list of at least one feature map", "\"['res4']\"")

# keys of detectron2 that its proposal network and its box heads read
_PROPOSAL_RULES = {
    "MODEL.PROPOSAL_GENERATOR.NAME": _registered("MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _at_least(0, "0"),
    "MODEL.ANCHOR_GENERATOR.NAME": _registered(
        "MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator"
    ),
    "MODEL.ANCHOR_GENERATOR.SIZES": _Rule(_are_anchors, _ANCHORS, '"[[32, 64, 128, 256]]"'),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _Rule(_are_anchors, _ANCHORS, '"[[0.5, 1.0, 2.0]]"'),
    "MODEL.ANCHOR_GENERATOR.OFFSET": _Rule(lambda x: 0 <= x < 1, "from 0 to below 1", "0.5"),
    "MODEL.RPN.HEAD_NAME": _registered("MODEL.RPN.HEAD_NAME", "StandardRPNHead"),
    "MODEL.RPN.NMS_THRESH": _at_least(0, "0.7", 1),
    "MODEL.RPN.LOSS_WEIGHT": _at_least(0, "1.0"),
    "MODEL.RPN.CONV_DIMS": _Rule(
        lambda x: all(channels == -1 or channels >= 1 for channels in x),
        "a list of numbers of channels, each -1 (that of the feature maps) or at least 1",
        '"[-1]"',
    ),
    "MODEL.ROI_HEADS.NAME": _registered("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    "MODEL.ROI_BOX_HEAD.NAME": _Rule(
        lambda name: name == "" or name in _registered_names("MODEL.ROI_BOX_HEAD.NAME"),
        "a registered name",
        "FastRCNNConvFCHead",
    ),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": _at_least(1, "7"),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": _at_least(0, "0"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _one_of(("ROIPool", "ROIAlign", "ROIAlignV2"), "ROIAlignV2"),
    "MODEL.ROI_BOX_HEAD.NUM_FC": _at_least(0, "2"),
    "MODEL.ROI_BOX_HEAD.FC_DIM": _at_least(1, "1024"),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _at_least(0, "0"),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _at_least(1, "256"),
    "MODEL.ROI_BOX_HEAD.NORM": _one_of(_BATCH_NORMS, "GN"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _at_least(1, "50"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _at_least(0, "0.5"),
}
_PROPOSAL_RULES |= {
    f"MODEL.RPN.{stage}_NMS_TOPK_{mode}": _at_least(1, "1000")
    for stage in ("PRE", "POST")
    for mode in ("TRAIN", "TEST")
}
_PROPOSAL_RULES |= {
    f"MODEL.{node}.{name}": rule
    for node in ("RPN", "ROI_HEADS")
    for name, rule in {
        "IN_FEATURES": _NAMED_FEATURES,
        "IOU_THRESHOLDS": _Rule(
            _are_thresholds,
            "a list of at least one value, each above 0 and at most 1, in ascending order",
            '"[0.5]"' if node == "ROI_HEADS" else '"[0.3, 0.7]"',
        ),
        "IOU_LABELS": _Rule(
            _are_labels,
            "a list of -1 (ignored), 0 (background) and 1 (object), in which 0 occurs, and whose "
            "last value is 1, but not the first",
            '"[0, 1]"' if node == "ROI_HEADS" else '"[0, -1, 1]"',
        ),
        "BATCH_SIZE_PER_IMAGE": _at_least(1, "256"),
        "POSITIVE_FRACTION": _FRACTION,
    }.items()
}
_PROPOSAL_RULES |= {
    f"MODEL.{node}.{name}": rule
    for node in ("RPN", "ROI_BOX_HEAD")
    for name, rule in {
        "BBOX_REG_LOSS_TYPE": _one_of(("smooth_l1", "giou", "diou", "ciou"), "smooth_l1"),
        "BBOX_REG_LOSS_WEIGHT": _at_least(0, "1.0"),
        "BBOX_REG_WEIGHTS": _each(_above_zero(""), '"[1.0, 1.0, 1.0, 1.0]"', 4),
        "SMOOTH_L1_BETA": _at_least(0, "0.0"),
    }.items()
}

# for training and for inference
_RULES = (
    _PROPOSAL_RULES
    | {
        "MODEL.DEVICE": _Rule(
            lambda name: _device_type(name) in ("cpu", "cuda", "mps"), "cuda, cuda:N or cpu", "cuda"
        ),
        "MODEL.META_ARCHITECTURE": _registered("MODEL.META_ARCHITECTURE", "FlowMatchingDetector"),
        "MODEL.BACKBONE.NAME": _registered("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        "MODEL.BACKBONE.FREEZE_AT": _at_least(0, "2", 5),
        "MODEL.PIXEL_MEAN": _each(_ANY_NUMBER, '"[123.675, 116.28, 103.53]"', 3),
        "MODEL.PIXEL_STD": _each(_above_zero(""), '"[58.395, 57.12, 57.375]"', 3),
        "MODEL.RESNETS.DEPTH": _one_of((18, 34, 50, 101, 152), "50"),
        "MODEL.RESNETS.NORM": _one_of(_BATCH_NORMS, "FrozenBN"),
        "MODEL.RESNETS.OUT_FEATURES": _each(_one_of(_RESNET_STAGES, ""), "\"['res4']\""),
        "MODEL.RESNETS.NUM_GROUPS": _at_least(1, "1"),
        "MODEL.RESNETS.WIDTH_PER_GROUP": _at_least(1, "64"),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": _at_least(1, "64"),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _at_least(1, "256"),
        "MODEL.RESNETS.RES5_DILATION": _one_of((1, 2), "1"),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": _Rule(
            lambda x: len(x) == 4, "4 values, each True or False", '"[False, False, False, False]"'
        ),
        "MODEL.SMALL_RESNET.CHANNELS": _each(_at_least(1, ""), '"[32, 32, 128]"', 3),
        "MODEL.SMALL_RESNET.BLOCKS": _each(_at_least(1, ""), '"[1, 2]"', 2),
        "MODEL.VIT.MLP_RATIO": _above_zero("4.0"),
        "MODEL.VIT.DROPOUT": _at_least(0, "0.1", 1),
        "MODEL.FLOW_DET.IN_FEATURES": _Rule(
            bool, "a list of at least one feature map of the backbone", "\"['res4']\""
        ),
        "MODEL.FLOW_DET.NUM_QUERIES": _at_least(1, "50"),
        "MODEL.FLOW_DET.NECK_NORM": _one_of(_BATCH_NORMS, "GN"),
        "MODEL.FLOW_DET.NECK_BLOCKS": _at_least(0, "1"),
        "MODEL.FLOW_DET.FEEDFORWARD_DIM": _at_least(1, "512"),
        "MODEL.FLOW_DET.BOX_SAMPLES": _at_least(0, "5"),
        "MODEL.FLOW_DET.BOX_SAMPLE_CHANNELS": _at_least(0, "32"),
        "MODEL.FLOW_DET.BOX_SAMPLE_HIDDEN_DIM": _at_least(0, "256"),
        "MODEL.FLOW_DET.FEATURE_CACHE_GIB": _at_least(0, "2"),
        "MODEL.BOX_TRANSPORT.PATH": _one_of(PATHS, "diffusion"),
        "MODEL.BOX_TRANSPORT.SIGNAL_SCALE": _above_zero("2"),
        "MODEL.BOX_TRANSPORT.NUM_TIMESTEPS": _at_least(1, "1000"),
        "MODEL.BOX_TRANSPORT.DDIM_ETA": _at_least(0, "1", 1),
        "MODEL.BOX_TRANSPORT.NUM_STEPS": _at_least(1, "4"),
        "MODEL.BOX_TRANSPORT.BOX_RENEWAL": _at_least(0, "0.1", 1),
        "MODEL.FCOS.NUM_CONVS": _at_least(1, "4"),
        "MODEL.FCOS.NORM": _one_of(_BATCH_NORMS, "GN"),
        "MODEL.FCOS.PRIOR_PROB": _Rule(lambda x: 0 < x < 1, "above 0 and below 1", "0.01"),
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _above_zero("1.5"),
        "MODEL.FCOS.FOCAL_LOSS_ALPHA": _at_least(0, "0.25", 1),
        "MODEL.FCOS.FOCAL_LOSS_GAMMA": _at_least(0, "2"),
        "MODEL.FCOS.TOPK_CANDIDATES": _at_least(1, "1000"),
        "MODEL.FLOW_CLS.BLOCK_DIM": _at_least(1, "512"),
        "MODEL.FLOW_CLS.EVAL_STEPS": _Rule(
            lambda steps: all(x >= 1 for x in steps), "a list of numbers of at least 1", '"[1, 4]"'
        ),
        "MODEL.FLOW_CLS.TOPOLOGY": _one_of(("parallel", "sequential"), "parallel"),
        "MODEL.LOCAL_LEARNING.READOUT_GRID": _at_least(1, "4"),
        "MODEL.FORWARD_FORWARD.LABEL": _one_of(LABELS, "pattern"),
        "MODEL.FORWARD_FORWARD.PATTERN_STRENGTH": _Rule(
            lambda x: 0 < x < 1, "above 0 and below 1", "0.5"
        ),
        "MODEL.FORWARD_FORWARD.PATTERN_SIZE": _at_least(1, "4"),
        "MODEL.FORWARD_FORWARD.THRESHOLD": _above_zero("1.5"),
        "MODEL.FORWARD_FORWARD.SCALE": _above_zero("10"),
        "MODEL.FORWARD_FORWARD.INFERENCE": _one_of(INFERENCES, "goodness"),
        "MODEL.FORWARD_FORWARD.SYMBA_ALPHA": _above_zero("4"),
        "MODEL.FORWARD_FORWARD.COLLABORATION": _one_of(COLLABORATIONS, "all"),
        "MODEL.SFF.SAMPLES": _at_least(2, "20"),
        "MODEL.SFF.INFERENCE_SAMPLES": _at_least(0, "20"),
        "MODEL.SFF.NOISE": _Rule(lambda x: 0 < x < 1, "above 0 and below 1", "0.2"),
        "MODEL.SFF.COMPRESSION_WEIGHT": _at_least(0, "0.5"),
        "MODEL.SFF.DIVERSITY_WEIGHT": _at_least(0, "0.5"),
        "MODEL.SFF.PROJECTION_DIMS": _each(_at_least(1, ""), '"[30, 20, 10]"'),
        "MODEL.CFF.TEMPERATURE": _above_zero("0.15"),
        "MODEL.CFF.MARGIN": _at_least(0, "0.4", 2),
        "MODEL.CFF.LAST_MARGIN": _at_least(0, "0.25", 1),
        "MODEL.SOFT_HEBB.KERNEL_SIZES": _each(
            _Rule(lambda x: x > 0 and x % 2 == 1, "odd and above 0", ""), '"[5, 3]"'
        ),
        "MODEL.SOFT_HEBB.LEARNING_RATES": _each(_at_least(0, ""), '"[0.08, 0.005, 0.01]"'),
        "MODEL.SOFT_HEBB.INVERSE_TEMPERATURES": _each(_above_zero(""), '"[1.0, 0.65, 0.25]"'),
        "MODEL.SOFT_HEBB.POWERS": _each(_above_zero(""), '"[0.7, 1.4, 1.0]"'),
        "MODEL.SOFT_HEBB.INITIAL_NORM": _above_zero("25"),
        "MODEL.SOFT_HEBB.RATE_POWER": _at_least(0, "0.5"),
        "MODEL.SOFT_HEBB.LEARNING_FRACTION": _at_least(0, "0.5", 1),
        "MODEL.SOFT_HEBB.DROPOUT": _Rule(lambda x: 0 <= x < 1, "from 0 to below 1", "0.5"),
        "MODEL.NOPROP.VARIANT": _one_of(VARIANTS, "dt"),
        "MODEL.NOPROP.NUM_BLOCKS": _at_least(1, "10"),
        "MODEL.NOPROP.EMBEDDING": _one_of(EMBEDDINGS, "one_hot"),
        "MODEL.NOPROP.EMBEDDING_DIM": _at_least(1, "20"),
        "MODEL.NOPROP.FEATURE_GRID": _at_least(1, "4"),
        "MODEL.NOPROP.HIDDEN_DIM": _Rule(
            lambda x: x >= 2 and x % 2 == 0, "even and above 0", "256"
        ),
        "MODEL.NOPROP.ETA": _above_zero("0.1"),
        "MODEL.NOPROP.LOG_SNR": _each(_at_least(-20, "", 20), '"[-5, 5]"', 2),
        "MODEL.NOPROP.NUM_STEPS": _at_least(1, "20"),
        "MODEL.NOPROP.NOISE_SEED": _at_least(-(2**63), "0", 2**63 - 1),
        "DATASETS.ON_PROBLEM": _one_of(ON_PROBLEM, "skip"),
        "DATASETS.HOLD_OUT": _Rule(lambda x: 0 <= x < 1, "from 0 to below 1", "0.2"),
        "INPUT.FORMAT": _one_of(("RGB", "BGR"), "RGB"),
        "INPUT.FIXED_SIZE": _Rule(
            lambda x: len(x) == 2 and (min(x) > 0 or tuple(x) == (0, 0)),
            "(height, width), or [0, 0] for off",
            '"[480, 640]"',
        ),
        "INPUT.VALUE_RANGE": _Rule(
            is_value_range,
            "[lowest, highest] pixel value, or [] for the full range of the pixel type",
            '"[0, 4095]"',
        ),
        "INPUT.RANDOM_FLIP": _one_of(("horizontal", "vertical", "none"), "horizontal"),
        "INPUT.MIN_SIZE_TEST": _at_least(0, "480"),
        "INPUT.MAX_SIZE_TEST": _at_least(1, "800"),
        "DATALOADER.NUM_WORKERS": _at_least(0, "4"),
        "DATALOADER.IN_MEMORY_GIB": _at_least(0, "2"),
        "TEST.DETECTIONS_PER_IMAGE": _at_least(1, "100"),
        "OUTPUT_DIR": _Rule(lambda path: bool(path.strip()), "the path of a folder", "output/run"),
        # numpy's seeds have 32 bits, and processes add their rank
        "SEED": _Rule(lambda x: x < 2**31, "below 2147483648; negative for a random seed", "1"),
    }
    | {
        f"MODEL.{node}.{name}": rule
        for node in ("FLOW_DET", "FLOW_CLS")
        for name, rule in {
            "PREDICTION": _one_of(PREDICTIONS, "target"),
            "HIDDEN_DIM": _at_least(1, "128"),
            "DROPOUT": _at_least(0, "0.1", 1),
            "NOISE_SCALE": _at_least(0, "0.3"),
            "NUM_STEPS": _at_least(0, "8"),
            "NOISE_SEED": _at_least(-(2**63), "0", 2**63 - 1),
        }.items()
    }
)

# for training only
_TRAINING_RULES = {
    "SOLVER.BASE_LR": _above_zero("1e-4"),
    "SOLVER.BASE_LR_END": _at_least(0, "0"),
    "SOLVER.MOMENTUM": _Rule(lambda x: 0 <= x < 1, "at least 0 and below 1", "0.9"),
    "SOLVER.WEIGHT_DECAY": _at_least(0, "1e-4"),
    "SOLVER.WEIGHT_DECAY_NORM": _at_least(0, "0"),
    "SOLVER.GAMMA": _Rule(lambda x: 0 < x <= 1, "above 0 and at most 1", "0.1"),
    "SOLVER.NUM_DECAYS": _at_least(1, "3"),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(_SCHEDULERS, "WarmupCosineLR"),
    "SOLVER.WARMUP_FACTOR": _at_least(0, "0.001", 1),
    "SOLVER.WARMUP_ITERS": _at_least(0, "100"),
    "SOLVER.WARMUP_METHOD": _one_of(("linear", "constant"), "linear"),
    "SOLVER.STEPS": _Rule(
        _increasing, "increasing numbers of iterations, none of them negative", '"[3000, 4000]"'
    ),
    "SOLVER.STEP_EPOCHS": _Rule(
        _increasing, "increasing numbers of epochs, none of them negative", '"[8, 11]"'
    ),
    "SOLVER.MAX_EPOCHS": _at_least(0, "12"),
    "SOLVER.WARMUP_EPOCHS": _at_least(0, "1"),
    "SOLVER.CHECKPOINT_EPOCHS": _at_least(0, "1"),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1, "1000"),
    "SOLVER.REFERENCE_WORLD_SIZE": _at_least(0, "0"),
    "SOLVER.BIAS_LR_FACTOR": _at_least(0, "1"),
    "SOLVER.BACKBONE_MULTIPLIER": _at_least(0, "0.1"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of(("value", "norm", "full_model"), "full_model"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _above_zero("0.1"),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _Rule(lambda x: x > 0, "above 0, or inf", "2.0"),
    "INPUT.MIN_SIZE_TRAIN": _each(_at_least(0, ""), '"[480, 640]"'),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of(("choice", "range"), "choice"),
    "INPUT.MAX_SIZE_TRAIN": _at_least(1, "1333"),
    "INPUT.CROP.TYPE": _one_of(
        ("relative_range", "relative", "absolute", "absolute_range"), "relative_range"
    ),
    "INPUT.CROP.SIZE": _each(_above_zero(""), '"[0.9, 0.9]"', 2),
    "DATALOADER.REPEAT_THRESHOLD": _at_least(0, "0.01"),
    "TEST.EVAL_PERIOD": _at_least(0, "1000"),
    "TEST.EVAL_EPOCHS": _at_least(0, "1"),
    "TEST.REPORT_IMAGES": _at_least(0, "100"),
    "MODEL.FLOW_DET.BBOX_WEIGHT": _at_least(0, "5"),
    "MODEL.FLOW_DET.GIOU_WEIGHT": _at_least(0, "2"),
} | {
    f"MODEL.{node}.{name}": rule
    for node in ("FLOW_DET", "FLOW_CLS")
    for name, rule in {
        "FLOW_WEIGHT": _at_least(0, "0.02"),
        "CLASS_WEIGHT": _at_least(0, "1"),
        "ITERS_PER_EPOCH": _at_least(0, "0"),
    }.items()
}


def check_values(cfg: CfgNode) -> None:
    """Checks the values that inference and training need.

    Raises:
        ValueError: a value is out of range or unknown. The message has the key, the value and an
            example.
    """
    values = dict(flat_items(cfg))
    _check(values, _RULES)
    _check_resnet(values)
    _check_iou_labels(values)


def check_training_values(cfg: CfgNode) -> None:
    """Checks the values that only training needs. Call `check_values` before.

    Raises:
        ValueError: as `check_values`.
    """
    values = dict(flat_items(cfg))
    if values["SOLVER.MAX_EPOCHS"] == 0:
        _check(values, {"SOLVER.MAX_ITER": _at_least(1, "40000")})
    if values["SOLVER.WEIGHT_DECAY_BIAS"] is not None:
        _check(values, {"SOLVER.WEIGHT_DECAY_BIAS": _at_least(0, "0")})
    _check(values, _TRAINING_RULES)
    base, end = values["SOLVER.BASE_LR"], values["SOLVER.BASE_LR_END"]
    if end > base:
        raise ValueError(
            f"SOLVER.BASE_LR_END is {end}, but must be at most SOLVER.BASE_LR, {base}; write, for "
            "example, SOLVER.BASE_LR_END 0"
        )
    sizes = values["INPUT.MIN_SIZE_TRAIN"]
    if values["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range" and len(sizes) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}, but must be (smallest, largest) with "
            'INPUT.MIN_SIZE_TRAIN_SAMPLING range; write, for example, INPUT.MIN_SIZE_TRAIN "[480, '
            '800]"'
        )


def check_device(cfg: CfgNode) -> None:
    """Checks that the machine has the device of a config. The type of the device must be valid.

    Raises:
        ValueError: torch finds no such device.
    """
    name = cfg.MODEL.DEVICE
    if _device_type(name) == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {name!r}, but torch finds no such device; write MODEL.DEVICE cpu"
        )
    index, count = torch.device(name).index, torch.cuda.device_count()
    if _device_type(name) == "cuda" and index is not None and index >= count:
        raise ValueError(
            f"MODEL.DEVICE is {name!r}, but torch finds {count} GPUs; write, for example, "
            "MODEL.DEVICE cuda:0"
        )


def _device_type(name: str) -> str:
    """Returns the type of a device, such as "cuda" of "cuda:0"; "" for an invalid name."""
    try:
        return torch.device(name).type
    except RuntimeError:
        return ""


def _check(values: dict[str, object], rules: dict[str, _Rule]) -> None:
    for key, rule in rules.items():
        value = values[key]
        if not rule.accepts(value):
            raise ValueError(
                f"{key} is {value!r}, but must be {rule.text}{_names(key)}; write, for example, "
                f"{key} {rule.example}"
            )


def _names(key: str) -> str:
    """Lists the names that are registered for a key; "" for other keys."""
    return f" ({', '.join(_registered_names(key))})" if key in _REGISTRIES else ""


def _check_iou_labels(values: dict[str, object]) -> None:
    """Checks that there is a label below, between and above the IoU thresholds."""
    for node in ("MODEL.RPN", "MODEL.ROI_HEADS"):
        labels, thresholds = values[f"{node}.IOU_LABELS"], values[f"{node}.IOU_THRESHOLDS"]
        if len(labels) != len(thresholds) + 1:
            raise ValueError(
                f"{node}.IOU_LABELS is {list(labels)}, but must have {len(thresholds) + 1} values, "
                f"one more than {node}.IOU_THRESHOLDS, {list(thresholds)}"
            )


def _check_resnet(values: dict[str, object]) -> None:
    """Checks the keys that depend on the kind and the depth of a ResNet."""
    outputs = values["MODEL.RESNETS.OUT_FEATURES"]
    if values["MODEL.BACKBONE.NAME"] == "build_small_resnet_backbone":
        unknown = [name for name in outputs if name not in _SMALL_RESNET_STAGES]
        if unknown:
            raise ValueError(
                f"MODEL.RESNETS.OUT_FEATURES is {list(outputs)}, but MODEL.BACKBONE.NAME "
                f"build_small_resnet_backbone has only {', '.join(_SMALL_RESNET_STAGES)}; write, "
                "for example, MODEL.RESNETS.OUT_FEATURES \"['res3']\""
            )
    depth = values["MODEL.RESNETS.DEPTH"]
    is_resnet = values["MODEL.BACKBONE.NAME"] == "build_resnet_backbone"
    if not is_resnet or depth not in _SHALLOW_RESNETS:
        return
    for name, expected in _SHALLOW_RESNET_KEYS.items():
        key, value = f"MODEL.RESNETS.{name}", values[f"MODEL.RESNETS.{name}"]
        if value != expected:
            raise ValueError(
                f"{key} is {value!r}, but must be {expected} for a ResNet-{depth}; write {key} "
                f'"{expected}"'
            )
