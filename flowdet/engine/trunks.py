"""Finds the ResNet in the checkpoints of other models, such as detectors of detectron2 or DETR."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# tensors by which a ResNet is recognized, as torchvision and as detectron2 name them
_TORCHVISION = ("conv1.weight", "layer1.0.conv1.weight")
_DETECTRON2 = ("stem.conv1.weight", "res2.0.conv1.weight")

_TORCHVISION_NAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_DETECTRON2_NAMES = re.compile(r"(stem|res[2-5])\.")

# numbers of residual blocks of res2, res3, ..., and whether they are bottlenecks, by depth
_DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


@dataclass(frozen=True)
class Trunk:
    """A ResNet in a state dict.

    Attributes:
        prefix: prefix of its tensors in the state dict.
        tensors: its tensors by detectron2's names, such as "res2.0.conv1.weight".
        other: names of the other tensors of the state dict.
        torchvision_names: whether the state dict has torchvision's names.
    """

    prefix: str
    tensors: dict
    other: list[str]
    torchvision_names: bool

    @property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of residual blocks of res2, res3, ... as far as the state dict has them."""
        blocks = {tuple(name.split(".")[:2]) for name in self.tensors if name.startswith("res")}
        counts = Counter(stage for stage, _ in blocks)
        return tuple(counts[stage] for stage in sorted(counts))

    @property
    def has_bottlenecks(self) -> bool:
        """Whether the residual blocks have three convolutions, as those of a ResNet-50."""
        return "res2.0.conv3.weight" in self.tensors

    @property
    def has_running_statistics(self) -> bool:
        """Whether its normalization is batch normalization with statistics."""
        return "stem.conv1.norm.running_var" in self.tensors

    @property
    def depth(self) -> int | None:
        """The number in the name of the ResNet, such as 50; None if it is not a usual one."""
        blocks, bottlenecks = self.blocks, self.has_bottlenecks
        fitting = [
            depth
            for depth, (counts, deep) in _DEPTHS.items()
            if counts[: len(blocks)] == blocks and deep == bottlenecks
        ]
        return fitting[0] if len(fitting) == 1 else None

    def fits(self, other: Trunk) -> bool:
        """Returns whether the stages that both ResNets have are built alike."""
        same_blocks = all(a == b for a, b in zip(self.blocks, other.blocks))
        return same_blocks and self.has_bottlenecks == other.has_bottlenecks

    def __str__(self):
        if self.depth:
            return f"ResNet-{self.depth}"
        return f"ResNet with {', '.join(map(str, self.blocks))} blocks in its stages"


def find_trunk(state: dict) -> Trunk | None:
    """Finds the ResNet in a state dict.

    Returns:
        The ResNet; None if there is none.

    Raises:
        ValueError: there are several, such as a model and its moving average.
    """
    resnets = [
        (name.removesuffix(first), names)
        for names in (_TORCHVISION, _DETECTRON2)
        for first in names[:1]
        for name in state
        if _is_suffix(first, name) and name.removesuffix(first) + names[1] in state
    ]
    if len(resnets) > 1:
        prefixes = ", ".join(f"{prefix}*" for prefix, _ in resnets)
        raise ValueError(f"there are several ResNets ({prefixes})")
    if not resnets:
        return None
    prefix, names = resnets[0]
    tensors = _torchvision_tensors if names is _TORCHVISION else _detectron2_tensors
    renamed = tensors(state, prefix)
    other = [name for name in state if name not in renamed.values()]
    return Trunk(
        prefix,
        {new: state[old] for new, old in renamed.items()},
        [name for name in other if not name.endswith("num_batches_tracked")],
        names is _TORCHVISION,
    )


def _is_suffix(suffix: str, name: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _torchvision_tensors(state: dict, prefix: str) -> dict[str, str]:
    """Returns the names in the state dict by detectron2's names."""
    renamed = {}
    for old in state:
        name = old.removeprefix(prefix)
        if not old.startswith(prefix) or not re.match(r"(conv1|bn1|layer[1-4])\.", name):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = old
    return renamed


def _detectron2_tensors(state: dict, prefix: str) -> dict[str, str]:
    return {
        old.removeprefix(prefix): old
        for old in state
        if old.startswith(prefix) and _DETECTRON2_NAMES.match(old.removeprefix(prefix))
    }


@dataclass(frozen=True)
class PixelForm:
    """What a ResNet expects of its input: the keys of the config and their values.

    Attributes:
        format: `INPUT.FORMAT`; "" if it is not known.
        mean, std: `MODEL.PIXEL_MEAN` and `MODEL.PIXEL_STD`.
        stride_in_1x1: `MODEL.RESNETS.STRIDE_IN_1X1`; None if it is not known.
    """

    format: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool | None

    def differences(self, other: PixelForm) -> str:
        """Lists the keys whose values differ, with the values of this form; "" for none."""
        keys = []
        if not _close(self.mean, other.mean):
            keys += [f"INPUT.FORMAT {self.format}"] if self.format else []
            keys += [f'MODEL.PIXEL_MEAN "{list(self.mean)}"']
        if not _close(self.std, other.std):
            keys += [f'MODEL.PIXEL_STD "{list(self.std)}"']
        strides = self.stride_in_1x1, other.stride_in_1x1
        if None not in strides and strides[0] != strides[1]:
            keys += [f"MODEL.RESNETS.STRIDE_IN_1X1 {self.stride_in_1x1}"]
        return " ".join(keys)


TORCHVISION_FORM = PixelForm("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
# the ResNets of Microsoft Research Asia, with which detectron2's detectors were trained
MSRA_FORM = PixelForm("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), True)


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < 0.5 for a, b in zip(one, other))


def expected_form(trunk: Trunk, state: dict, author: str) -> PixelForm | None:
    """Returns the form of pixels that the ResNet of a checkpoint was trained with.

    Args:
        trunk: the ResNet.
        state: the state dict of the checkpoint.
        author: the entry `__author__` of the checkpoint, which detectron2 sets.

    Returns:
        The form; None if it is not known.
    """
    if {"pixel_mean", "pixel_std"} <= {*state}:
        mean, std = (_rounded(state[name]) for name in ("pixel_mean", "pixel_std"))
        return PixelForm("", mean, std, None)
    if trunk.torchvision_names or author == "torchvision":
        return TORCHVISION_FORM
    grouped = "res2.0.conv2.weight" in trunk.tensors and not _is_plain(trunk)
    # the ResNeXts of detectron2's model zoo have other forms
    if author in ("Caffe2", "Detectron2 Model Zoo") and not grouped:
        return MSRA_FORM
    return None


def _rounded(values) -> tuple[float, ...]:
    return tuple(round(float(x), 3) for x in values.reshape(-1))


def _is_plain(trunk: Trunk) -> bool:
    """Returns whether the convolutions are not divided into groups, as those of a ResNeXt are."""
    shape = trunk.tensors["res2.0.conv2.weight"].shape
    return shape[0] == shape[1]


def check_fit(trunk: Trunk, own: Trunk, author: str) -> None:
    """Checks that the ResNet of a checkpoint has every tensor of the model's ResNet.

    The shapes are not compared.

    Args:
        trunk: the ResNet of the checkpoint.
        own: the ResNet of the model.
        author: the entry `__author__` of the checkpoint.

    Raises:
        ValueError: another depth or another normalization, or stages are missing. The message says
            which key to set.
    """
    if not trunk.fits(own):
        hint = f"set MODEL.RESNETS.DEPTH {trunk.depth}" if trunk.depth else "use its config"
        raise ValueError(f"it contains a {trunk}, but the model has a {own}: {hint}")
    if len(trunk.blocks) < len(own.blocks):
        last = f"res{len(trunk.blocks) + 1}"
        raise ValueError(
            f"its ResNet ends with {last}, but the model has further stages: set "
            f"MODEL.RESNETS.OUT_FEATURES and IN_FEATURES of the model to \"['{last}']\""
        )
    # Caffe2's files contain no statistics, because they are merged into weight and bias
    if trunk.has_running_statistics != own.has_running_statistics and (
        trunk.has_running_statistics or author != "Caffe2"
    ):
        norm = "FrozenBN" if trunk.has_running_statistics else "GN"
        raise ValueError(
            "its ResNet has another normalization than the model's: set MODEL.RESNETS.NORM, for "
            f"example to {norm}"
        )
    missing = [
        name
        for name in own.tensors
        if name not in trunk.tensors
        and not name.endswith(("num_batches_tracked", "running_mean", "running_var"))
    ]
    if missing:
        raise ValueError(
            f"its ResNet lacks {len(missing)} tensors of the model's, such as {missing[0]}: use a "
            "checkpoint of the same ResNet (MODEL.RESNETS)"
        )
