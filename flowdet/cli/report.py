"""Writes the report of a run: an HTML page with curves, class results, example images and config.

    tools/report.py --run output/digits_flow
    tools/report.py --run output/digits_flow --output report.html --images 200

The run may be complete, interrupted or still training. A training writes this report at its end,
unless the config key TEST.REPORT is False.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flowdet.cli.common import command, command_parser, user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="output folder of a training")
    add("--output", type=Path, metavar="FILE", help="the page (default: report.html in the run)")
    add("--images", type=int, help="number of test images (default: TEST.REPORT_IMAGES)")
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from detectron2.utils.logger import setup_logger

    from flowdet.reporting.report import write_report

    setup_logger(name="flowdet")
    with user_errors():
        print(f"written: {write_report(args.run, args.output, args.images)}")


if __name__ == "__main__":
    sys.exit(main())
