#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.demo."""

import sys

from flowdet.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
