#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.table45."""

import sys

from flowdet.cli.table45 import main

if __name__ == "__main__":
    sys.exit(main())
