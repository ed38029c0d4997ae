"""Looks up registered parts by the name in a config key."""

from __future__ import annotations

from detectron2.utils.registry import Registry


def registered(registry: Registry, name: str, key: str) -> object:
    """The part that is registered under a name.

    Args:
        registry: where to look.
        name: the value of the config key.
        key: the config key, for the error message.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in registry:
        names = sorted(known for known, _ in registry)
        raise ValueError(f"unknown {key} {name!r}: use one of {names}")
    return registry.get(name)
