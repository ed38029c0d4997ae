"""The commands: one module each, run as `tools/NAME.py` or, once installed, as `flowdet-NAME`."""

import os

# How long a waiting OpenMP thread spins (GNU's runtime, read when torch is loaded): the default
# starves other processes on few cores, and no spinning at all halves the speed there.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
