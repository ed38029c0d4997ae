"""How config keys are declared: default, rule, explanation, and what they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flowdet.config.conditions import Condition
from flowdet.config.rules import Rule


@dataclass(frozen=True)
class Key:
    """A config key.

    Attributes:
        default: the default, which also has the type of the key. Of detectron2's keys it is None:
            detectron2 sets them.
        rule: what its value must be.
        only_with: conditions on other keys without which the key has no effect.
        example: a valid value as it is typed on the command line; "" if the default is one.
        element: type of the elements of a list whose default is empty.
        training: whether the key only matters for training.
    """

    default: object
    rule: Rule
    only_with: tuple[Condition, ...] = ()
    example: str = ""
    element: type | None = None
    training: bool = False


@dataclass(frozen=True)
class Group:
    """Keys that one text explains.

    Attributes:
        text: the explanation.
        keys: the keys by name.
    """

    text: str
    keys: Mapping[str, Key]


@dataclass(frozen=True)
class Section:
    """The keys of a config node.

    Attributes:
        node: the node, such as `MODEL.FLOW_DET`; "" for the config itself.
        groups: its keys.
        only_with: conditions without which none of the keys has an effect.
        defaults: defaults that replace those of the groups.
        training: whether the keys only matter for training.
    """

    node: str
    groups: Sequence[Group]
    only_with: tuple[Condition, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)
    training: bool = False

    def keys(self) -> Iterator[tuple[str, Key]]:
        """Yields every key with its full name; its conditions have full names too."""
        for group in self.groups:
            for name, key in group.keys.items():
                conditions = (*self.only_with, *key.only_with)
                yield (
                    self.full_name(name),
                    replace(
                        key,
                        default=self.defaults.get(name, key.default),
                        only_with=tuple(x.within(self.node) for x in conditions),
                        training=self.training or key.training,
                    ),
                )

    def full_name(self, name: str) -> str:
        """Returns the full name of a key."""
        return f"{self.node}.{name}" if self.node else name


def group(text: str, **keys: Key) -> Group:
    """Returns keys, by name, that one text explains."""
    return Group(text, keys)


def for_training(*groups: Group) -> tuple[Group, ...]:
    """Returns groups whose keys only matter for training."""
    return tuple(
        replace(group, keys={name: replace(key, training=True) for name, key in group.keys.items()})
        for group in groups
    )


def checked(
    node: str, rules: Mapping[str, Rule | Key], *only_with: Condition, training: bool = False
) -> Section:
    """Returns keys of detectron2, which has their defaults and explanations.

    Args:
        node: the config node, such as `MODEL.RPN`; "" for the config itself.
        rules: the rules by the name of the key, or keys without default.
        only_with: conditions without which none of the keys has an effect.
        training: whether the keys only matter for training.
    """
    keys = {name: x if isinstance(x, Key) else Key(None, x) for name, x in rules.items()}
    return Section(node, (Group("", keys),), only_with, training=training)
