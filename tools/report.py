#!/usr/bin/env python
"""The command line of flowdet.cli.report."""

import sys

from flowdet.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
