"""The commands, one module each.

A command is run as `tools/NAME.py` in a checkout, as `python -m flowdet.cli.NAME`, and some as a
console script `flowdet-NAME`. Its `main(argv)` parses the words of a command line, by default
those of this process.
"""

import os
import warnings

# detectron2's import scripts a function, and torch warns that this is deprecated
warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)

# How long a waiting OpenMP thread spins; GNU's runtime reads it when torch is loaded. On few cores
# the default slows other processes down several times, and no spinning at all halves the speed.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
