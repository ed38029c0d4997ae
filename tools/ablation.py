#!/usr/bin/env python
"""The command line of flowdet.cli.ablation."""

import sys

from flowdet.cli.ablation import main

if __name__ == "__main__":
    sys.exit(main())
