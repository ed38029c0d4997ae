#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.make_digits."""

import sys

from flowdet.cli.make_digits import main

if __name__ == "__main__":
    sys.exit(main())
