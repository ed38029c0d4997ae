#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.table1."""

import sys

from flowdet.cli.table1 import main

if __name__ == "__main__":
    sys.exit(main())
