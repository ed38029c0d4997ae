#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.table3."""

import sys

from flowdet.cli.table3 import main

if __name__ == "__main__":
    sys.exit(main())
