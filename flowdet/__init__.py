"""flowdet: a DETR-style detector, and a classifier, trained block by block without backpropagation
through the blocks. A plugin for detectron2.

Importing this package imports no other package. Its functions import detectron2, and register the
meta-architectures, backbones and datasets, when they are first used. `flowdet.flow` needs only
torch.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from flowdet.inference.evaluation import evaluate
    from flowdet.inference.loading import load

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "add_flowdet_config",
    "evaluate",
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
            # fvcore scripts a function on import: torch warns about it, and users cannot change it
            warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
            import detectron2.modeling  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "flowdet needs detectron2, which cannot be imported "
            f"({error}). Install it with: flowdet-install-detectron2 "
            "(in a checkout: python flowdet_install.py)"
        ) from error
    import flowdet.data.classification
    import flowdet.data.detection
    import flowdet.detection
    import flowdet.flowcls  # noqa: F401


def add_flowdet_config(cfg: CfgNode) -> None:
    """Registers flowdet and adds its keys, with their defaults, to a detectron2 config in place.

    Raises:
        ImportError: detectron2 cannot be imported.
    """
    register()
    from flowdet.config import add_flowdet_config

    add_flowdet_config(cfg)


def __getattr__(name: str):
    """Imports `load`, `evaluate`, `get_config` and `list_configs` when they are first used."""
    if name == "load":
        register()
        from flowdet.inference.loading import load

        return load
    if name == "evaluate":
        register()
        from flowdet.inference.evaluation import evaluate

        return evaluate
    if name == "get_config":
        from flowdet.engine.config import get_config

        return get_config
    if name == "list_configs":
        from flowdet.config.config_files import list_configs

        return list_configs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
