"""Warns about config keys that are set but have no effect."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from flowdet.config.conditions import META_ARCHITECTURE, Condition, flowdet_models
from flowdet.config.schema import KEYS, defaults
from flowdet.config.unread_keys import reason_unread

logger = logging.getLogger(__name__)


def warn_without_effect(values: Mapping[str, object], given: Iterable[str]) -> None:
    """Logs a warning for every given key that has no effect with the values of the other keys.

    Keys with their default value are left out, and so are all keys of a model that is neither
    flowdet's nor derived from one of flowdet's, unless their declaration says otherwise.

    Args:
        values: the valid values of a config by full name.
        given: the keys that the user set.
    """
    for name in dict.fromkeys(given):
        if values[name] != defaults()[name] and (reason := why_without_effect(name, values)):
            logger.warning("%s has no effect, because %s", name, reason)


def why_without_effect(name: str, values: Mapping[str, object]) -> str:
    """Returns why a key has no effect; "" if it may have one."""
    if name not in KEYS:
        return reason_unread(name) if flowdet_models(values[META_ARCHITECTURE]) else ""
    broken = (c for c in KEYS[name].only_with if not c.holds(values))
    return next((_reason(condition, values) for condition in broken), "")


def _reason(condition: Condition, values: Mapping[str, object]) -> str:
    """Returns the values that a broken condition is about."""
    return " and ".join(f"{part.key} is {values[part.key]!r}" for part in condition.parts)
