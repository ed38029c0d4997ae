"""Imports the modules in the config key `IMPORTS`, which register the user's own parts.

Importing runs their code. `IMPORTS` of the command line, or of a Python call, is what the user has
typed. `IMPORTS` of a file may come from somebody else, with a downloaded run, for example: it needs
`--trust-config` (`trust_config=True` in Python).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from flowdet.config.errors import ConfigError, ImportsError

# whether the command of this process was called with --trust-config
_trusted = False


def trust_config_files(trust: bool) -> None:
    """Sets whether `IMPORTS` of all files is imported in this process."""
    global _trusted
    _trusted = trust


def are_config_files_trusted() -> bool:
    """Whether `IMPORTS` of all files is imported in this process."""
    return _trusted


def check_trusted(names: Sequence[str], source: str) -> None:
    """Checks that a file may import modules: it is trusted, or they are imported already.

    Args:
        names: `IMPORTS` of the file.
        source: path of the file.

    Raises:
        ConfigError: the file is not trusted.
    """
    new = [name for name in names if _module_name(name) not in sys.modules]
    if new and not _trusted:
        raise ConfigError(
            f"{source}: IMPORTS names {new[0]!r}, whose code would run. If you trust this file, "
            "add --trust-config (in Python: trust_config=True), or give IMPORTS on the command line"
        )


def import_parts(names: Sequence[str]) -> None:
    """Imports modules, each once, so that they can register parts.

    Args:
        names: names of modules, or paths of .py files.

    Raises:
        FileNotFoundError: a file does not exist.
        ImportsError: a module does not exist. Errors inside a module are raised unchanged.
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
        raise ImportsError(
            f"IMPORTS names a module {name!r}, which is not on Python's path: install it, or give "
            "the path of a .py file"
        ) from error


def _import_file(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"IMPORTS names a file {path!r}, which does not exist")
    name = _module_name(path)
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _module_name(name: str) -> str:
    """Returns the name of the module that an entry of `IMPORTS` becomes."""
    if not name.endswith(".py"):
        return name
    # it contains the whole path: files of the same name in two folders differ
    return "flowdet_imports." + os.path.realpath(name).replace(".", "_")
