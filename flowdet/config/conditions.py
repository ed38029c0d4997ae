"""When a config key has an effect: the values of other keys that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from detectron2.modeling import META_ARCH_REGISTRY

# meta-architectures
FLOW = ("FlowMatchingDetector", "FlowMatchingClassifier")
QUERY_DETECTORS = ("FlowMatchingDetector", "BackpropDetector", "BoxTransportDetector")
DETECTORS = (*QUERY_DETECTORS, "FCOSDetector", "FasterRCNNDetector")
BLOCK_CLASSIFIERS = ("FlowMatchingClassifier", "BackpropClassifier")
FORWARD_FORWARD = (
    "ForwardForwardClassifier",
    "SymBaClassifier",
    "LayerCollaborationClassifier",
)
LOCAL_LEARNING = (
    *FORWARD_FORWARD,
    "StochasticForwardForwardClassifier",
    "ContrastiveForwardForwardClassifier",
    "SoftHebbClassifier",
)
CLASSIFIERS = (*BLOCK_CLASSIFIERS, *LOCAL_LEARNING, "NoPropClassifier")

META_ARCHITECTURE = "MODEL.META_ARCHITECTURE"

RESNETS = (
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
)
SMALL_RESNET = "build_small_resnet_backbone"
CNN = "build_cnn_backbone"
VIT = "build_vit_backbone"
_BACKBONES = {*RESNETS, SMALL_RESNET, CNN, VIT}


@dataclass(frozen=True)
class Part:
    """What the value of another key must be; without a dot the key is in the same section."""

    key: str
    holds: Callable[[object], bool]
    text: str


@dataclass(frozen=True)
class Condition:
    """A key has an effect only if one of some parts holds.

    Attributes:
        parts: the parts.
    """

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The condition, for the documentation."""
        return " or ".join(part.text for part in self.parts)

    def holds(self, values: Mapping[str, object]) -> bool:
        """Returns whether the values of a config, by full name, fulfill the condition."""
        return any(part.holds(values[part.key]) for part in self.parts)

    def within(self, node: str) -> Condition:
        """Returns the condition with the full names of keys, for a key of a node."""
        return Condition(
            tuple(
                part if "." in part.key or not node else replace(part, key=f"{node}.{part.key}")
                for part in self.parts
            )
        )


def either(*conditions: Condition) -> Condition:
    """One of some conditions holds."""
    return Condition(tuple(part for condition in conditions for part in condition.parts))


def has(key: str, *values: object) -> Condition:
    """The other key has one of some values."""
    return _condition(key, lambda x: x in values, _listed(values))


def has_not(key: str, *values: object) -> Condition:
    """The other key has none of some values. So registered parts of a user may use the key."""
    return _condition(key, lambda x: x not in values, f"other than {_listed(values)}")


def is_set(key: str) -> Condition:
    """The other key is not off: not 0, False, "", [] or a list of zeros."""
    return _condition(key, _is_on, "on")


def is_not_set(key: str) -> Condition:
    """The other key is off: 0, False, "", [] or a list of zeros."""
    return _condition(key, lambda x: not _is_on(x), "off")


def read_by(*models: str) -> Condition:
    """The model is one of some meta-architectures, or derived from one.

    Models that are not derived from one of flowdet's may read any key.
    """

    def holds(name: object) -> bool:
        own = flowdet_models(name)
        return not own or bool(own & {*models})

    return _condition(META_ARCHITECTURE, holds, _listed(models))


def backbone(*names: str) -> Condition:
    """The backbone is one of some. Backbones of a user may read any key."""
    return _condition(
        "MODEL.BACKBONE.NAME", lambda x: x in names or x not in _BACKBONES, _listed(names)
    )


def flowdet_models(name: str) -> set[str]:
    """Returns flowdet's meta-architectures that a registered one is, or is derived from."""
    parents = META_ARCH_REGISTRY.get(name).__mro__
    return {parent.__name__ for parent in parents} & {*DETECTORS, *CLASSIFIERS}


def _condition(key: str, holds: Callable[[object], bool], text: str) -> Condition:
    return Condition((Part(key, holds, f"{key.rpartition('.')[2]} {text}"),))


def _is_on(value: object) -> bool:
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


def _listed(values: tuple) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
