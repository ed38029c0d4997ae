"""Checks a whole dataset before a training and lists every problem.

    tools/check_data.py --data path/to/dataset --config-file configs/voc_flow_r50.yaml

It opens every image, counts objects per class and box sizes, and draws a sheet of images with their
boxes.
With a config it also compares the number of objects with the number of queries, and the object
sizes with the input size. The exit status is 1 if there are problems. docs/custom_datasets.md
describes the accepted layouts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from PIL import Image

from flowdet.cli.common import at_least_one, command_parser, user_errors
from flowdet.config import add_flowdet_config
from flowdet.data.custom.check import DatasetCheck, check_dataset
from flowdet.data.custom.findings import finding_lines
from flowdet.data.custom.statistics import class_table, config_remarks, size_table, split_table
from flowdet.engine import load_config
from flowdet.inference.picture_writer import PICTURE_SUFFIXES, save_picture
from flowdet.visualization.drawing import check_tiles
from flowdet.visualization.ground_truth import ground_truth_sheet

FORMATS = {"pascal_voc": "VOC", "coco": "COCO"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="folder of the dataset")
    add("--config-file", help="path or name of the config to train with")
    add("--sheet", type=Path, help="picture to write (default: output/check_FOLDER.png)")
    add(
        "--images", type=at_least_one, default=24, help="images on the sheet (default: %(default)s)"
    )
    add(
        "--examples",
        type=at_least_one,
        default=10,
        help="problems to list per kind (default: %(default)s)",
    )
    add(
        "--skip-images",
        action="store_true",
        help="read the annotations only; open no image, draw no sheet",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    if args.opts and not args.config_file:
        parser.error("KEY VALUE pairs override a config: give --config-file")
    args.sheet = args.sheet or Path("output") / f"check_{args.data.resolve().name}.png"
    if args.sheet.suffix.lower() not in PICTURE_SUFFIXES:
        parser.error(f"--sheet {args.sheet}: must be the name of a picture, e.g. sheet.png")
    return args


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of `--config-file`, or flowdet's defaults."""
    if args.config_file:
        return load_config(args.config_file, args.opts)
    cfg = get_cfg()
    add_flowdet_config(cfg)
    return cfg


def print_report(checked: DatasetCheck, args: argparse.Namespace, cfg: CfgNode) -> None:
    """Prints the tables, remarks and problems."""
    print(f"{args.data}: {FORMATS[checked.kind]} format, {len(checked.class_names)} classes\n")
    print(split_table(checked.records, cfg.MODEL.FLOW_DET.NUM_QUERIES), end="\n\n")
    print(class_table(checked.records, checked.class_names), end="\n\n")
    print(size_table(checked.records, cfg if args.config_file else None), end="\n\n")
    remarks = checked.remarks + (config_remarks(checked.records, cfg) if args.config_file else [])
    for remark in remarks:
        print(f"note: {remark}")
    for line in finding_lines(checked.problems, args.examples):
        print(line)


def main(argv: list[str] | None = None) -> int:
    with user_errors():
        return check(parse_args(argv))


def check(args: argparse.Namespace) -> int:
    """Checks a dataset and prints the report; returns the exit status."""
    check_tiles(args.images)
    cfg = read_config(args)
    checked = check_dataset(args.data, open_images=not args.skip_images)
    print_report(checked, args, cfg)
    if not args.skip_images:
        save_picture(sheet_of_valid_images(checked, args.images), args.sheet)
        print(f"{args.sheet}: images with their boxes")
    print(f"{len(checked.problems)} problems" if checked.problems else "no problems")
    return 1 if checked.problems else 0


def sheet_of_valid_images(checked: DatasetCheck, count: int) -> Image.Image:
    """Draws a sheet of images with their boxes; images with problems are left out."""
    invalid = {problem.where for problem in checked.problems}
    records = {
        split: [r for r in split_records if r["file_name"] not in invalid]
        for split, split_records in checked.records.items()
    }
    return ground_truth_sheet(records, checked.class_names, count)


if __name__ == "__main__":
    sys.exit(main())
