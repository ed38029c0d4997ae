#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.peers."""

import sys

from flowdet.cli.peers import main

if __name__ == "__main__":
    sys.exit(main())
