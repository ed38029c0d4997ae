#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.report."""

import sys

from flowdet.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
