#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.train."""

import sys

from flowdet.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
