"""Packages whose exports are imported when they are first used.

Commands read their options before they load torch, but they need modules of packages whose other
modules load it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence


def lazy_exports(package: str, exports: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Returns the function `__getattr__` of a package (PEP 562).

    Args:
        package: `__name__` of the package.
        exports: the names that each of its modules defines, by the name of the module.

    Raises (from the function):
        AttributeError: the package exports no such name.
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get
