"""The commands, one module each: run as `tools/NAME.py` in a checkout, as `flowdet-NAME` once
installed, or as `python -m flowdet.cli.NAME`.
"""

import os
import warnings

# detectron2's import scripts a function, and torch warns that this is deprecated
warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)

# How long a waiting OpenMP thread spins (GNU's runtime, read when torch is loaded): the default
# starves other processes on few cores, and no spinning at all halves the speed there.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
