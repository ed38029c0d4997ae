"""Which nodes of `MODEL` in a config have no effect on its model."""

from __future__ import annotations

from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.config.conditions import META_ARCHITECTURE
from flowdet.config.schema import SECTIONS


def unread_nodes(cfg: CfgNode) -> tuple[str, ...]:
    """Returns the prefixes of the keys that the model of a config does not read.

    They are () for a meta-architecture that is neither flowdet's nor derived from one of flowdet's.

    Args:
        cfg: the config. Its meta-architecture is registered.
    """
    values = dict(flat_items(cfg))
    return tuple(
        f"{section.node}."
        for section in SECTIONS
        if not all(
            condition.holds(values)
            for condition in section.only_with
            if condition.parts[0].key == META_ARCHITECTURE
        )
    )
