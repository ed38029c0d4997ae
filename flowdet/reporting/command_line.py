"""The command line that started this program, as a user types it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import flowdet

_MODULE = "python -m "


def typed_command() -> str:
    """Returns the command line that started this program."""
    return " ".join([program_name(), shlex.join(sys.argv[1:])]).rstrip()


def program_name() -> str:
    """Returns the name under which this program was started, as a shell reads it.

    Examples: `tools/train_net.py`, `flowdet-train`, `python -m flowdet.cli.train`. It starts the
    program again from the current folder.
    """
    program = _program()
    return program if program.startswith(_MODULE) else shlex.quote(program)


def _program() -> str:
    path = Path(sys.argv[0]).resolve()
    if path.stem.startswith("flowdet-"):
        return path.stem
    package = Path(flowdet.__file__).resolve().parent
    if path.is_relative_to(package):
        module = path.relative_to(package.parent).with_suffix("")
        return f"{_MODULE}{'.'.join(module.parts)}"
    short = f"{path.parent.name}/{path.name}"
    # from another folder, only the path that was typed finds it
    return short if Path(short).is_file() else sys.argv[0]


def sibling_program(name: str) -> str:
    """Returns how another command of the project is started, in the way this program was.

    Args:
        name: its module in `flowdet.cli`, such as "report".
    """
    program = _program()
    if program.startswith("flowdet-"):
        return f"flowdet-{name.replace('_', '-')}"
    if program.startswith(_MODULE):
        return f"{_MODULE}flowdet.cli.{name}"
    return shlex.quote(os.path.join(os.path.dirname(program), f"{name}.py"))
