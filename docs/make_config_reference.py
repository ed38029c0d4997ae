#!/usr/bin/env python
"""Writes docs/config.md, the reference of all keys that flowdet adds, from flowdet/config.py.

    docs/make_config_reference.py

A key is explained by the comment above it. The comment also holds for the keys that follow without
a blank line or a comment between them.
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

This page lists the keys that flowdet adds to
[detectron2's own](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references).
The defaults are the recommended recipe. `docs/make_config_reference.py` makes this page from
`flowdet/config.py`.
"""
BOTH = "MODEL.FLOW_DET and MODEL.FLOW_CLS"


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
    """The comments of flowdet/config.py, each with the keys or nodes that it explains.

    A key that is assigned again, with another default, is not explained again.
    """
    source = inspect.getsource(flowdet.config)
    lines = source.splitlines()
    groups: list[tuple[str, list[str]]] = []
    known: set[str] = set()
    end = 0
    for nodes, statement in _assignments(ast.parse(source)):
        if statement.lineno != end + 1:
            groups.append((_comment_above(lines, statement.lineno), []))
        end = statement.end_lineno
        target = ast.unparse(statement.targets[0]).partition(".")[2]
        names = [f"{node}.{target}".removeprefix("cfg.") for node in nodes]
        groups[-1][1].extend(name for name in names if name not in known)
        known.update(names)
    return [(text, names) for text, names in groups if names]


def _assignments(module: ast.Module) -> Iterator[tuple[list[str], ast.Assign]]:
    """The assignments to keys, each with the nodes that it adds the key to, e.g.
    `cfg.MODEL.FLOW_DET`."""
    functions = {x.name: x for x in module.body if isinstance(x, ast.FunctionDef)}
    nodes: dict[str, list[str]] = {}
    for x in ast.walk(functions["add_flowdet_config"]):
        if isinstance(x, ast.Call) and ast.unparse(x.func) in functions:
            nodes.setdefault(ast.unparse(x.func), []).append(ast.unparse(x.args[0]))
    for name in nodes:
        for statement in functions[name].body:
            if isinstance(statement, ast.Assign):
                yield nodes[name], statement


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends above line `number` (from 1); "" for none."""
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
    explained_keys: set[str] = set()
    sections: dict[str, list[str]] = {}
    for text, names in explained():
        members = [key for key in keys if any(f"{key}.".startswith(f"{name}.") for name in names)]
        if not text or not members:
            raise ValueError(f"flowdet/config.py does not explain {', '.join(names)}")
        explained_keys.update(members)
        section, shown = _row(members, keys)
        sections.setdefault(section, []).append(f"| {shown} | {text} |")
    missing = [key for key in keys if key not in explained_keys]
    if missing:
        raise ValueError(f"flowdet/config.py does not explain {', '.join(missing)}")
    table = "\n\n## {}\n\n| key = default | |\n| --- | --- |\n{}\n"
    return HEAD + "".join(
        table.format(section or "Top level", "\n".join(rows)).removeprefix("\n")
        for section, rows in sections.items()
    )


def _row(members: list[str], keys: dict[str, object]) -> tuple[str, str]:
    """The section of some keys, and the keys with their defaults as a table cell."""
    section = members[0].rpartition(".")[0]
    shown = [f"`{x.removeprefix(section + '.')}` = `{keys[x]!r}`" for x in members]
    twins = {x.replace("FLOW_DET", "FLOW_CLS") for x in members if "FLOW_DET" in x}
    if twins and twins <= {*members}:
        section, shown = BOTH, [_shared(x, keys) for x in members if "FLOW_DET" in x]
    return section, "<br>".join(shown)


def _shared(key: str, keys: dict[str, object]) -> str:
    default, other = keys[key], keys[key.replace("FLOW_DET", "FLOW_CLS")]
    text = f"`{key.rpartition('.')[2]}` = `{default!r}`"
    return text if other == default else f"{text}, FLOW_CLS: `{other!r}`"


if __name__ == "__main__":
    write_text(PAGE, reference())
    print(f"{PAGE}: {len(added_keys())} keys")
