#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.plot_training."""

import sys

from flowdet.cli.plot_training import main

if __name__ == "__main__":
    sys.exit(main())
