"""Measures the variance of each block's gradient over batches, for flow and backprop (Figure 7).

    tools/measure_gradients.py MODEL.WEIGHTS output/digits_pretrain/backbone.pth
    tools/measure_gradients.py --config-file configs/voc_flow_r50.yaml --batches 100

All methods get the same batches. The variance is measured before the training and after some of
its iterations. `backprop` has one loss, at the last block; `backprop_auxiliary` has a loss at
every block. `KEY VALUE` pairs override the config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from flowdet.cli.common import command, command_parser, parse_with_overrides, user_errors
from flowdet.experiments.method_keys import GRADIENT_METHODS as METHODS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--config-file",
        default="configs/digits_flow.yaml",
        help="path or name of the config of a FlowMatchingDetector",
    )
    add("--blocks", nargs="+", type=int, default=[4, 6], metavar="T", help="numbers of blocks")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="default: all")
    add(
        "--batches",
        type=int,
        default=50,
        metavar="N",
        help="batches to compute the variance over (default: 50)",
    )
    add(
        "--iterations",
        nargs="+",
        type=int,
        default=[0, 200],
        help="numbers of training iterations to measure after (default: 0 200)",
    )
    add(
        "--output",
        type=Path,
        default=Path("output/gradient_variance"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parse_with_overrides(parser, argv)
    if min(args.iterations) < 0:
        parser.error(f"--iterations must not be negative, got {min(args.iterations)}")
    return args


def print_table(rows: list[dict]) -> None:
    """Prints one line per method, T and number of iterations."""
    table: dict[tuple, list] = {}
    for row in rows:
        key = (row["method"], row["num_blocks"], row["iterations"])
        table.setdefault(key, []).append(row["mean"])
    lines = [
        [*key, " ".join(f"{x:.2e}" for x in variances), f"{ratio:.3g}"]
        for key, (*variances, ratio) in table.items()
    ]
    headers = ["method", "T", "iterations", "gradient variance of block 1, 2, ...", "first / last"]
    print(tabulate(lines, headers, disable_numparse=True))


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.engine import keep_freed_memory, load_config, resolve_config
    from flowdet.engine.config import with_keys
    from flowdet.experiments.gradients import variance_figure, variance_rows
    from flowdet.experiments.measurement import (
        check_has_queries,
        check_output_folder,
        save_measurement,
    )
    from flowdet.reporting.results import changed_keys

    keep_freed_memory()
    with user_errors():
        check_output_folder(args.output)
        cfg = resolve_config(load_config(args.config_file, args.opts))
        check_has_queries(cfg)
        variants = [
            (name, with_keys(cfg, METHODS[name] | {"MODEL.FLOW_DET.NUM_BLOCKS": count}))
            for count in sorted(set(args.blocks))
            for name in args.methods
        ]
        measurements = variance_rows(variants, args.batches, args.iterations)
        # one value per block, and the ratio of the first to the last
        per_iteration = sum(variant.MODEL.FLOW_DET.NUM_BLOCKS + 1 for _, variant in variants)
        total = per_iteration * len(set(args.iterations))
        rows = list(tqdm(measurements, total=total, desc="measured", unit=" values"))
        print_table(rows)
        save_measurement(
            args.output,
            "gradient_variance",
            rows,
            variance_figure(rows),
            config=args.config_file,
            seeds=[max(cfg.SEED, 0)],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    sys.exit(main())
