#!/usr/bin/env python
"""Writes a run as one HTML page: curves, results per class, best and worst images, config.

    tools/report.py --run output/digits_flow
    tools/report.py --run output/digits_flow --output report.html --images 200

Works beside a running training, and on runs that were stopped. Trainings end with it by themselves
(TEST.REPORT).
"""

import argparse
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from detectron2.utils.logger import setup_logger

from flowdet.cli.common import user_errors
from flowdet.reporting.report import write_report


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="OUTPUT_DIR of a training")
    add("--output", type=Path, metavar="FILE", help="the page (default: report.html in --run)")
    add("--images", type=int, help="test images to look at (default: TEST.REPORT_IMAGES)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    setup_logger(name="flowdet")
    with user_errors():
        print(f"written: {write_report(args.run, args.output, args.images)}")


if __name__ == "__main__":
    main()
