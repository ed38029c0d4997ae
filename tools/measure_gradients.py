#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.measure_gradients."""

import sys

from flowdet.cli.measure_gradients import main

if __name__ == "__main__":
    sys.exit(main())
