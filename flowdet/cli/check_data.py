"""Checks a whole dataset before a training and lists every problem and repair.

    tools/check_data.py --data path/to/dataset --config-file configs/voc_flow_r50.yaml
    tools/check_data.py --data path/to/dataset --write-clean path/to/clean

It opens every image, counts objects per class and box sizes, and draws a sheet of images with their
boxes. With a config it also compares the number of objects with the number of queries, and the
object sizes with the input size. --write-clean writes a copy without problems, in which the repairs
are made. The exit status is 1 if there are problems. docs/custom_datasets.md describes the accepted
layouts and what is repaired.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import at_least_one, command, command_parser, user_errors
from flowdet.inference.output_formats import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from flowdet.data.custom.check import DatasetCheck


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
    add("--write-clean", type=Path, metavar="FOLDER", help="new folder for the repaired dataset")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    if args.opts and not args.config_file:
        parser.error("KEY VALUE pairs override a config: give --config-file")
    args.sheet = (
        args.sheet or Path("output") / f"check_{os.path.basename(os.path.realpath(args.data))}.png"
    )
    if args.sheet.suffix.lower() not in PICTURE_SUFFIXES:
        parser.error(f"--sheet {args.sheet}: must be the name of a picture, e.g. sheet.png")
    return args


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of `--config-file`, or flowdet's defaults."""
    from detectron2.config import get_cfg

    from flowdet.config import add_flowdet_config
    from flowdet.engine import load_config

    if args.config_file:
        return load_config(args.config_file, args.opts)
    cfg = get_cfg()
    add_flowdet_config(cfg)
    return cfg


def print_report(checked: DatasetCheck, args: argparse.Namespace, cfg: CfgNode) -> None:
    """Prints the problems, repairs, notes and tables."""
    from flowdet.data.custom.findings import finding_lines
    from flowdet.data.custom.statistics import class_table, config_remarks, size_table, split_table
    from flowdet.engine.task_builders import has_queries
    from flowdet.visualization.fonts import font_note

    num_classes = len(checked.class_names)
    print(f"{args.data}: {checked.format} format, {num_classes} classes\n")
    for title, findings in (("Problems", checked.problems), ("Repaired", checked.repairs)):
        if findings:
            print(f"{title}: {len(findings)}")
            print("\n".join(finding_lines(findings, args.examples)), end="\n\n")
    remarks = list(checked.remarks)
    if args.config_file:
        remarks += config_remarks(checked.records, cfg, has_queries(cfg))
    if note := font_note(checked.class_names):
        remarks.append(note)
    if remarks:
        print("\n".join(f"note: {remark}" for remark in remarks), end="\n\n")
    print(split_table(checked.records, cfg.MODEL.FLOW_DET.NUM_QUERIES), end="\n\n")
    print(class_table(checked.records, checked.class_names), end="\n\n")
    print(size_table(checked.records, cfg if args.config_file else None), end="\n\n")


@command
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    with user_errors():
        return check(args)


def check(args: argparse.Namespace) -> int:
    """Checks a dataset and prints the report; returns the exit status."""
    from flowdet.data.custom.check import check_dataset
    from flowdet.data.custom.clean import write_clean
    from flowdet.visualization.drawing import check_tiles

    check_tiles(args.images)
    cfg = read_config(args)
    checked = check_dataset(
        args.data,
        open_images=not args.skip_images,
        value_range=cfg.INPUT.VALUE_RANGE,
        hold_out=cfg.DATASETS.HOLD_OUT,
        hold_out_seed=cfg.DATASETS.HOLD_OUT_SEED,
        format_name=cfg.DATASETS.FORMAT,
    )
    print_report(checked, args, cfg)
    if not args.skip_images:
        draw_sheet(checked, args)
    if args.write_clean:
        write_clean(checked, args.data, args.write_clean)
        print(f"{args.write_clean}: the dataset without problems")
    print(f"{len(checked.problems)} problems" if checked.problems else "no problems")
    return 1 if checked.problems else 0


def draw_sheet(checked: DatasetCheck, args: argparse.Namespace) -> None:
    """Draws a sheet of images with their boxes, if an image can be drawn."""
    from flowdet.inference.picture_writer import save_picture
    from flowdet.visualization.ground_truth import ground_truth_sheet

    if not any(checked.records.values()):
        print("no image can be drawn")
        return
    sheet = ground_truth_sheet(checked.records, checked.class_names, args.images)
    save_picture(sheet, args.sheet)
    print(f"{args.sheet}: images with their boxes")


if __name__ == "__main__":
    sys.exit(main())
