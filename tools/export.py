#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.export."""

import sys

from flowdet.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
