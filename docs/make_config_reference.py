#!/usr/bin/env python
"""Writes docs/config.md, the reference of all keys, from their declaration in flowdet/config/.

docs/make_config_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flowdet

# isort: split
import flowdet.config.schema as schema
from flowdet.config.conditions import META_ARCHITECTURE
from flowdet.config.declaration import Group, Key, Section
from flowdet.config.unread_keys import UNREAD_KEYS
from flowdet.reporting.results import write_text

PAGE = Path(__file__).with_name("config.md")
HEAD = """# Configuration

The first part lists the keys that flowdet adds to
[detectron2's own](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references).
The defaults are the recommended recipe. The second part lists the keys of detectron2 that flowdet
reads, with the values that it accepts.

Every value is checked when a config is loaded, and the keys that only training needs when a
training starts. A value of another type, or one that is not valid, ends a command with one line
that has the key, the value and what it must be. A key that you set on the command line or in your
config file, but that has no effect with the values of the others, is named in a warning.

`docs/make_config_reference.py` makes this page from `flowdet/config/`.
"""
BOTH = "MODEL.FLOW_DET and MODEL.FLOW_CLS"


def reference() -> str:
    """Returns the page."""
    flowdet.register()
    sections: dict[str, list[str]] = {}
    for title, row in _rows():
        sections.setdefault(title, []).append(row)
    parts = [HEAD]
    for title, rows in sections.items():
        table = "\n".join(rows)
        parts.append(
            f"\n## {title}\n\n| key = default | valid values | |\n| --- | --- | --- |\n{table}\n"
        )
    return "".join([*parts, _detectron2_keys(), _unread_keys()])


def _rows() -> Iterator[tuple[str, str]]:
    """Yields every group of flowdet's keys: the title of its table, and its row."""
    detection, classification = _section("MODEL.FLOW_DET"), _section("MODEL.FLOW_CLS")
    shared = [group for group in detection.groups if group in classification.groups]
    for section in schema.SECTIONS:
        for group in section.groups:
            if group not in shared:
                yield section.node or "Top level", _row(section, group)
            elif section is detection:
                yield BOTH, _row(section, group, classification)


def _section(node: str) -> Section:
    return next(section for section in schema.SECTIONS if section.node == node)


def _row(section: Section, group: Group, other: Section | None = None) -> str:
    """Returns the row of a group; `other` is a section that has it with other defaults."""
    keys = [
        f"`{name}` = `{schema.KEYS[section.full_name(name)].default!r}`"
        + (f", FLOW_CLS: `{other.defaults[name]!r}`" if other and name in other.defaults else "")
        for name in group.keys
    ]
    rules = [_valid(key) for key in group.keys.values()]
    return f"| {'<br>'.join(keys)} | {'<br>'.join(rules)} | {group.text} |"


def _valid(key: Key) -> str:
    """Describes the valid values of a key, and what it depends on besides the model."""
    conditions = [
        condition.text for condition in key.only_with if condition.parts[0].key != META_ARCHITECTURE
    ]
    text = key.rule.text.replace("|", "\\|")
    return f"{text}; counts only with {' and '.join(conditions)}" if conditions else text


def _detectron2_keys() -> str:
    rows = [
        f"| `{name}` = `{schema.defaults()[name]!r}` | {_valid(key)} |"
        for section in schema.DETECTRON2_SECTIONS
        for name, key in section.keys()
        if name in schema.defaults()
    ]
    table = "\n".join(rows)
    return f"\n## Keys of detectron2\n\n| key = default | valid values |\n| --- | --- |\n{table}\n"


def _unread_keys() -> str:
    rows = "\n".join(
        f"| `{start}{'*' if start.endswith(('.', '_')) else ''}` | {reason} |"
        for start, reason in UNREAD_KEYS.items()
    )
    head = "\n## Keys of detectron2 that flowdet does not read\n\n| key | reason |\n| --- | --- |"
    return f"{head}\n{rows}\n"


if __name__ == "__main__":
    write_text(PAGE, reference())
    print(f"{PAGE}: {len(schema.KEYS)} keys")
