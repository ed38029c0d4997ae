"""Parts of one's own: modules that a config names are imported before anything is built."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence


def import_parts(names: Sequence[str]) -> None:
    """Imports modules once each, so that the parts which they register are known.

    Args:
        names: of modules, or paths of .py files.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: there is no such module, or it cannot be imported.
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
            f"IMPORTS names a module {name!r}, which is not on the path: install it, or give a .py "
            "file"
        ) from error


def _import_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"IMPORTS names a file {path!r}, which does not exist")
    # by its place, so that files of the same name do not get into each other's way
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
