"""The commands, one module each.

A command is run as `tools/NAME.py` in a checkout or as `python -m flowdet.cli.NAME`. Some commands
are also console scripts, `flowdet-NAME`. `main(argv)` takes the arguments of the command line; the
default is `sys.argv[1:]`.

The modules import torch, and what needs it, inside the functions that run after the options are
read: `--help` and the errors of wrong options answer at once.
"""

import os
import warnings

# Importing detectron2 calls torch.jit.script, and torch warns that this is deprecated.
warnings.filterwarnings("ignore", ".*torch.jit.script.*", FutureWarning)

# How long a waiting OpenMP thread spins. GNU's runtime reads the variable when torch is loaded. On
# few cores the default makes other processes several times slower; without spinning this process
# runs at half its speed.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
