"""flowdet: a DETR-style detector, and a classifier, trained block by block without backpropagation
through the blocks. A plugin for detectron2.

Importing it is cheap: nothing else is imported. `add_flowdet_config`, `get_config`, `load` and
`register` import detectron2 and register the meta-architectures, backbones and datasets when they
are first called. `flowdet.flow` needs nothing but torch.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from flowdet.inference.loading import load

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "add_flowdet_config",
    "get_config",
    "list_configs",
    "load",
    "register",
]


def register() -> None:
    """Registers flowdet's meta-architectures, backbones and datasets with detectron2.

    Raises:
        ImportError: detectron2 cannot be imported; the message says how to install it.
    """
    try:
        with warnings.catch_warnings():
            # fvcore scripts a function on import, which torch warns of: no user can act on it
            warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
            import detectron2.modeling  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "flowdet needs detectron2, which is not importable here "
            f"({error}). Install it with: flowdet-install-detectron2 "
            "(in a checkout: python flowdet_install.py)"
        ) from error
    import flowdet.data.classification
    import flowdet.data.detection
    import flowdet.detection
    import flowdet.flowcls  # noqa: F401


def add_flowdet_config(cfg: CfgNode) -> None:
    """Adds flowdet's keys with their defaults to a detectron2 config, in place; see `register`."""
    register()
    from flowdet.config import add_flowdet_config

    add_flowdet_config(cfg)


def __getattr__(name: str):
    """`load`, `get_config` and `list_configs`, imported when they are first used."""
    if name == "load":
        register()
        from flowdet.inference.loading import load

        return load
    if name == "get_config":
        from flowdet.engine.config import get_config

        return get_config
    if name == "list_configs":
        from flowdet.engine.config_files import list_configs

        return list_configs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
