#!/usr/bin/env python
"""Writes docs/config.md, the reference of all keys that flowdet adds, from flowdet/config.py.

    docs/make_config_reference.py

What a key means is the comment above it, which also serves the keys that follow it without a
blank line or a comment of their own.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from detectron2.config import CfgNode, get_cfg

import flowdet.config
from flowdet.reporting.results import write_text

PAGE = Path(__file__).with_name("config.md")
HEAD = """# Configuration

The keys that flowdet adds to
[detectron2's own](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references),
with their defaults, which are the recipe that was measured to work. Made from `flowdet/config.py`
by `docs/make_config_reference.py`.
"""


def added_keys() -> dict[str, object]:
    """All keys, such as `MODEL.FLOW_DET.NUM_QUERIES`, with their defaults."""
    cfg, before = get_cfg(), dict(_leaves(get_cfg()))
    flowdet.config.add_flowdet_config(cfg)
    return {key: value for key, value in _leaves(cfg) if key not in before}


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def explained() -> list[tuple[str, list[str]]]:
    """Comments of flowdet/config.py, each with what is below it: keys, or nodes that hold some."""
    lines = inspect.getsource(flowdet.config).splitlines()
    groups: list[tuple[str, list[str]]] = []
    node = ""
    for statement in _assignments("\n".join(lines)):
        names = [ast.unparse(target) for target in statement.targets]
        if "node" in names:
            # all that is added to `node` from here on belongs to it
            node = names[0].removeprefix("cfg.")
            continue
        above = lines[statement.lineno - 2].strip()
        if above.startswith("#"):
            groups.append((_comment_above(lines, statement.lineno), []))
        elif not above:
            groups.append(("", []))
        name = names[0].removeprefix("cfg.")
        groups[-1][1].append(name.replace("node.", f"{node}.", 1))
    return groups


def _assignments(text: str) -> Iterator[ast.Assign]:
    """Those inside functions, in the order of the text."""
    for function in ast.parse(text).body:
        if isinstance(function, ast.FunctionDef):
            yield from (x for x in function.body if isinstance(x, ast.Assign))


def _comment_above(lines: list[str], number: int) -> str:
    """The block of comment lines that ends above line `number` (from 1)."""
    first = number - 1
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[first : number - 1])


def reference() -> str:
    """The page.

    Raises:
        ValueError: a key has no comment.
    """
    keys = added_keys()
    sections: dict[str, list[str]] = {}
    for text, names in explained():
        members = [key for key in keys if any(f"{key}.".startswith(f"{name}.") for name in names)]
        if not text or not members:
            raise ValueError(f"flowdet/config.py does not explain {', '.join(names)}")
        section = members[0].rpartition(".")[0]
        shown = [f"`{key.removeprefix(section + '.')}` = `{keys.pop(key)!r}`" for key in members]
        sections.setdefault(section, []).append(f"| {'<br>'.join(shown)} | {text} |")
    if keys:
        raise ValueError(f"flowdet/config.py does not explain {', '.join(keys)}")
    table = "\n\n## {}\n\n| key = default | |\n| --- | --- |\n{}\n"
    return HEAD + "".join(
        table.format(section or "Top level", "\n".join(rows)).removeprefix("\n")
        for section, rows in sections.items()
    )


if __name__ == "__main__":
    write_text(PAGE, reference())
    print(f"{PAGE}: {len(added_keys())} keys")
