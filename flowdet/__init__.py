"""flowdet: detection and classification as transport, trained block by block, on detectron2.

Importing it registers the meta-architectures, backbones and datasets with detectron2.
`flowdet.load` takes a trained model by its folder, to be called on images.
`flowdet.flow` alone needs nothing but torch.
"""

import os
import warnings

__version__ = "0.1.0"

# How long a waiting thread of OpenMP spins (GNU's, read when torch is loaded): its own default
# starves whatever else runs on a few cores, and not spinning at all halves the speed there.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    with warnings.catch_warnings():
        # fvcore, which detectron2 imports, still scripts a function: nothing a user can act on
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)
        import detectron2.modeling  # noqa: F401
except ImportError as error:
    raise ImportError(
        "flowdet needs detectron2, which is not importable here "
        f"({error}). Install it with: flowdet-install-detectron2 "
        "(in a checkout: python flowdet_install.py)"
    ) from error

from flowdet import data, detection, flowcls  # noqa: F401
from flowdet.config import add_flowdet_config

__all__ = ["__version__", "add_flowdet_config", "load"]


def __getattr__(name: str):
    # trainer, evaluation and their libraries, which a model alone does not need
    if name == "load":
        from flowdet.engine.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
