#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.measure_leak."""

import sys

from flowdet.cli.measure_leak import main

if __name__ == "__main__":
    sys.exit(main())
