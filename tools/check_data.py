#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.check_data."""

import sys

from flowdet.cli.check_data import main

if __name__ == "__main__":
    sys.exit(main())
