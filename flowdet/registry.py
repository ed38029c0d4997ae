"""Looking parts up by the name that a config key gives."""

from __future__ import annotations

from detectron2.utils.registry import Registry


def registered(registry: Registry, name: str, key: str) -> object:
    """The part of this name.

    Args:
        key: the config key that gave the name, for the message.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in registry:
        names = sorted(known for known, _ in registry)
        raise ValueError(f"unknown {key} {name!r}: use one of {names}")
    return registry.get(name)
