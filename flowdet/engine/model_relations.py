"""Checks the values of config keys of a model that must fit the values of other keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from detectron2.utils.registry import Registry

from flowdet.config.conditions import (
    DETECTORS,
    META_ARCHITECTURE,
    QUERY_DETECTORS,
    SMALL_RESNET,
    flowdet_models,
)
from flowdet.config.errors import ConfigError
from flowdet.config.rules import device_type
from flowdet.detection.build import DETECTION_BLOCK_REGISTRY
from flowdet.flowcls.build import CLASSIFICATION_BLOCK_REGISTRY

Values = Mapping[str, object]

_SMALL_RESNET_STAGES = ("stem", "res2", "res3")
_SHALLOW_RESNETS = (18, 34)
_SHALLOW_RESNET_KEYS = {
    "RES2_OUT_CHANNELS": 64,
    "RES5_DILATION": 1,
    "NUM_GROUPS": 1,
    "DEFORM_ON_PER_STAGE": [False] * 4,
}
_REGISTRIES: dict[str, Registry] = {
    "MODEL.FLOW_DET.BLOCK": DETECTION_BLOCK_REGISTRY,
    "MODEL.FLOW_CLS.BLOCK": CLASSIFICATION_BLOCK_REGISTRY,
}
# groups of detectron2's GroupNorm
_GROUPS = 32


def check_model_relations(values: Values) -> None:
    """Checks the relations between the keys of a model.

    Args:
        values: the values of a config by full name, each of which is valid by itself.

    Raises:
        ValueError: a value does not fit that of another key.
    """
    models = flowdet_models(values[META_ARCHITECTURE])
    _check_registries(values)
    _check_resnet(values)
    _check_iou_labels(values)
    if models & {*DETECTORS}:
        _check_features(values)
    if "FlowMatchingClassifier" in models:
        key, dim = "MODEL.FLOW_CLS.HIDDEN_DIM", values["MODEL.FLOW_CLS.HIDDEN_DIM"]
        require(dim % 2 == 0, key, dim, "even, for the time embedding", f"{key} 128")
    for norm, channels in _norms(values, models):
        _check_norm(values, norm, channels)
    if "FasterRCNNDetector" in models and values["MODEL.ROI_HEADS.NAME"] == "CascadeROIHeads":
        _check_cascade(values)


def require(fits: bool, key: str, value: object, must: str, write: str) -> None:
    """Raises ValueError if a value does not fit.

    Args:
        fits: whether it fits.
        key, value: the key and its value.
        must: completes "must be ..."; names the other key and its value.
        write: a key and a value that fit.
    """
    if not fits:
        raise ConfigError(f"{key} is {value!r}, but must be {must}; write, for example, {write}")


def _check_registries(values: Values) -> None:
    for key, registry in _REGISTRIES.items():
        names = sorted(name for name, _ in registry)
        listed = ", ".join(names)
        require(values[key] in names, key, values[key], f"one of {listed}", f"{key} {names[0]}")


def _check_features(values: Values) -> None:
    """A detector needs names of feature maps; for a classifier, [] means all stages."""
    key, names = "MODEL.FLOW_DET.IN_FEATURES", values["MODEL.FLOW_DET.IN_FEATURES"]
    must = "a list of at least one feature map of the backbone"
    require(bool(names), key, names, must, f"{key} \"['res4']\"")


def _check_resnet(values: Values) -> None:
    """Checks the keys that depend on the kind and the depth of a ResNet."""
    outputs, name = values["MODEL.RESNETS.OUT_FEATURES"], values["MODEL.BACKBONE.NAME"]
    if name == SMALL_RESNET and not {*outputs} <= {*_SMALL_RESNET_STAGES}:
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(outputs)}, but MODEL.BACKBONE.NAME "
            f"{SMALL_RESNET} has only {', '.join(_SMALL_RESNET_STAGES)}; write, for example, "
            "MODEL.RESNETS.OUT_FEATURES \"['res3']\""
        )
    if name == SMALL_RESNET:
        key, channels = "MODEL.SMALL_RESNET.CHANNELS", list(values["MODEL.SMALL_RESNET.CHANNELS"])
        # detectron2's block projects its input only if the number of channels changes
        must = "3 values of which the last two differ, because res3 halves the size"
        require(channels[1] != channels[2], key, channels, must, f'{key} "[32, 32, 128]"')
    depth = values["MODEL.RESNETS.DEPTH"]
    if name != "build_resnet_backbone" or depth not in _SHALLOW_RESNETS:
        return
    for name, expected in _SHALLOW_RESNET_KEYS.items():
        key = f"MODEL.RESNETS.{name}"
        must = f"{expected} for a ResNet-{depth}"
        require(values[key] == expected, key, values[key], must, f'{key} "{expected}"')


def _check_iou_labels(values: Values) -> None:
    """Checks that there is a label below, between and above the IoU thresholds."""
    for node in ("MODEL.RPN", "MODEL.ROI_HEADS"):
        labels, thresholds = values[f"{node}.IOU_LABELS"], values[f"{node}.IOU_THRESHOLDS"]
        if len(labels) != len(thresholds) + 1:
            raise ConfigError(
                f"{node}.IOU_LABELS is {list(labels)}, but must have {len(thresholds) + 1} values, "
                f"one more than {node}.IOU_THRESHOLDS, {list(thresholds)}"
            )


def _norms(values: Values, models: set[str]) -> Iterator[tuple[str, str]]:
    """Yields the keys of the normalizations in a model, each with the key of its channels."""
    if models & {*DETECTORS}:
        yield "MODEL.FLOW_DET.NECK_NORM", "MODEL.FLOW_DET.HIDDEN_DIM"
    if "FCOSDetector" in models:
        yield "MODEL.FCOS.NORM", "MODEL.FLOW_DET.HIDDEN_DIM"
    if "FasterRCNNDetector" in models and values["MODEL.ROI_BOX_HEAD.NUM_CONV"]:
        yield "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_BOX_HEAD.CONV_DIM"
    name = values["MODEL.BACKBONE.NAME"]
    if name == SMALL_RESNET:
        yield "MODEL.RESNETS.NORM", "MODEL.SMALL_RESNET.CHANNELS"
    elif "resnet" in name:
        yield "MODEL.RESNETS.NORM", "MODEL.RESNETS.STEM_OUT_CHANNELS"
        yield "MODEL.RESNETS.NORM", "MODEL.RESNETS.RES2_OUT_CHANNELS"
    if "fpn" in name:
        yield "MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS"


def _check_norm(values: Values, key: str, channels_key: str) -> None:
    """Checks that group normalization can divide the channels into its groups."""
    channels = values[channels_key]
    counts = channels if isinstance(channels, (list, tuple)) else [channels]
    if values[key] == "GN" and any(count % _GROUPS for count in counts):
        raise ConfigError(
            f"{channels_key} is {channels}, but must be a multiple of {_GROUPS} with {key} GN; "
            f"write, for example, {key} BN"
        )


def _check_cascade(values: Values) -> None:
    """Checks the keys of the stages of detectron2's cascade of box heads."""
    node = "MODEL.ROI_BOX_CASCADE_HEAD"
    ious, weights = values[f"{node}.IOUS"], values[f"{node}.BBOX_REG_WEIGHTS"]
    first = values["MODEL.ROI_HEADS.IOU_THRESHOLDS"]
    must = f"a list of {len(weights)} values, one for each of {node}.BBOX_REG_WEIGHTS"
    write = f'{node}.IOUS "[0.5, 0.6, 0.7]"'
    require(len(ious) == len(weights), f"{node}.IOUS", list(ious), must, write)
    must = f"a list whose first value is MODEL.ROI_HEADS.IOU_THRESHOLDS, {list(first)}"
    require([ious[0]] == list(first), f"{node}.IOUS", list(ious), must, write)
    key = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"
    must = "True with MODEL.ROI_HEADS.NAME CascadeROIHeads"
    require(values[key], key, values[key], must, f"{key} True")


def check_synchronized_norms(values: Values) -> None:
    """Checks that the normalizations can be trained on the device.

    Raises:
        ValueError: batch normalization that is synchronized between GPUs, without a GPU.
    """
    if device_type(values["MODEL.DEVICE"]) == "cuda" and torch.cuda.is_available():
        return
    for key, _ in _norms(values, flowdet_models(values[META_ARCHITECTURE])):
        must = "another one to train without a GPU"
        fits = values[key] not in ("SyncBN", "nnSyncBN")
        require(fits, key, values[key], must, f"{key} BN")


def check_loss_weights(values: Values) -> None:
    """Checks that the losses of a model have a weight.

    Raises:
        ValueError: all weights are 0, so that nothing would be trained.
    """
    models = flowdet_models(values[META_ARCHITECTURE])
    keys: list[str] = []
    if models & {*QUERY_DETECTORS}:
        keys = [f"MODEL.FLOW_DET.{name}_WEIGHT" for name in ("CLASS", "BBOX", "GIOU")]
    elif "FlowMatchingClassifier" in models:
        keys = ["MODEL.FLOW_CLS.CLASS_WEIGHT", "MODEL.FLOW_CLS.FLOW_WEIGHT"]
    elif "StochasticForwardForwardClassifier" in models:
        keys = ["MODEL.SFF.COMPRESSION_WEIGHT", "MODEL.SFF.DIVERSITY_WEIGHT"]
    if keys and not any(values[key] for key in keys):
        raise ConfigError(
            f"{', '.join(keys)} are all 0, so that nothing would be trained: set one of them above "
            f"0, for example {keys[0]} 1"
        )
