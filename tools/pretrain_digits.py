#!/usr/bin/env python
"""Command-line entry point of flowdet.cli.pretrain_digits."""

import sys

from flowdet.cli.pretrain_digits import main

if __name__ == "__main__":
    sys.exit(main())
