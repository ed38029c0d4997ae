#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.measure_representation."""

import sys

from flowdet.cli.measure_representation import main

if __name__ == "__main__":
    sys.exit(main())
