"""Which nodes of `MODEL` in a config have no effect on its model."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.engine.task_builders import CLASSIFICATION, DETECTION, task_of

_FORWARD_FORWARD = (
    "ForwardForwardClassifier",
    "SymBaClassifier",
    "LayerCollaborationClassifier",
)
# the nodes that only some models read, with the meta-architectures of these models
_READERS = {
    "BOX_TRANSPORT": ("BoxTransportDetector",),
    "FCOS": ("FCOSDetector",),
    "FORWARD_FORWARD": _FORWARD_FORWARD,
    "SFF": ("StochasticForwardForwardClassifier",),
    "CFF": ("ContrastiveForwardForwardClassifier",),
    "SOFT_HEBB": ("SoftHebbClassifier",),
    "NOPROP": ("NoPropClassifier",),
    "LOCAL_LEARNING": (
        *_FORWARD_FORWARD,
        "StochasticForwardForwardClassifier",
        "ContrastiveForwardForwardClassifier",
        "SoftHebbClassifier",
    ),
}
_MODELS = {
    *("FlowMatchingDetector", "BackpropDetector", "FasterRCNNDetector"),
    *("FlowMatchingClassifier", "BackpropClassifier"),
    *(name for names in _READERS.values() for name in names),
}


def unread_nodes(cfg: CfgNode) -> tuple[str, ...]:
    """Returns the prefixes of the keys that the model of a config does not read.

    They are () for a meta-architecture that is neither flowdet's nor derived from one of flowdet's.

    Args:
        cfg: the config. Its meta-architecture is registered.
    """
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    names = {parent.__name__ for parent in architecture.__mro__} & _MODELS
    if not names:
        return ()
    other = DETECTION if task_of(cfg) is CLASSIFICATION else CLASSIFICATION
    unread = [node for node, readers in _READERS.items() if not names & {*readers}]
    return tuple(f"MODEL.{node}." for node in [*unread, other.node])
