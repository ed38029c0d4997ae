"""Imports the modules in the config key `IMPORTS`, which register the user's own parts."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence


def import_parts(names: Sequence[str]) -> None:
    """Imports modules, each once, so that they can register parts.

    Args:
        names: names of modules, or paths of .py files.

    Raises:
        FileNotFoundError: a file does not exist.
        ImportError: a module does not exist. Errors inside a module are raised unchanged.
    """
    for name in names:
        if name.endswith(".py"):
            _import_file(name)
        else:
            _import_module(name)


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"IMPORTS names a module {name!r}, which is not on Python's path: install it, or give "
            "the path of a .py file"
        ) from error


def _import_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"IMPORTS names a file {path!r}, which does not exist")
    # the module's name contains the whole path: files of the same name in two folders differ
    name = "flowdet_imports." + os.path.realpath(path).replace(".", "_")
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
