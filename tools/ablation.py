#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.ablation."""

import sys

from flowdet.cli.ablation import main

if __name__ == "__main__":
    sys.exit(main())
