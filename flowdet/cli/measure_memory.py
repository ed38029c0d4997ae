"""Measures the memory of a training step for several numbers of blocks T (Figure 3).

    tools/measure_memory.py
    tools/measure_memory.py --config-file configs/digits_flow.yaml --blocks 2 4 8 --batch-sizes 16

It counts the bytes of the tensors that are kept for the backward pass, and on a GPU also the peak
of the allocator. The images are synthetic, so no dataset is needed. `KEY VALUE` pairs override the
config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from flowdet.cli.common import command, command_parser, parse_with_overrides, user_errors
from flowdet.experiments.method_keys import MEMORY_METHODS as METHODS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--config-file",
        default="configs/voc_flow_r50.yaml",
        help="path or name of the config of a FlowMatchingDetector",
    )
    add(
        "--blocks",
        nargs="+",
        type=int,
        default=[4, 8, 16, 20, 24],
        metavar="T",
        help="numbers of blocks",
    )
    add("--batch-sizes", nargs="+", type=int, default=[1, 8], metavar="B", help="images per step")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="default: all")
    add(
        "--output",
        type=Path,
        default=Path("output/memory"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, argv)


def print_table(rows: list[dict], slopes: list[dict], metric: str) -> None:
    """Prints a metric for every T, and its increase per block."""
    from flowdet.experiments.memory import memory_lines

    per_block = {
        (row["batch_size"], row["method"]): f"{row['mean']:,}"
        for row in slopes
        if row["metric"] == f"{metric}_per_block"
    }
    table = []
    for (batch, method), points in memory_lines(rows, metric).items():
        line = {"batch": batch, "method": method}
        line |= {f"T={count}": f"{size / 2**20:.1f}" for count, size in points}
        table.append(line | {"bytes per block": per_block.get((batch, method), "-")})
    if table:
        print(f"\n{metric} in MiB, and the least-squares slope:")
        print(tabulate(table, headers="keys", disable_numparse=True))


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.engine import load_config, resolve_config
    from flowdet.experiments.measurement import (
        check_has_queries,
        check_output_folder,
        save_measurement,
    )
    from flowdet.experiments.memory import memory_figure, memory_rows, slope_rows
    from flowdet.reporting.results import changed_keys

    with user_errors():
        check_output_folder(args.output)
        cfg = resolve_config(load_config(args.config_file, args.opts), training=False)
        check_has_queries(cfg)
        blocks, batch_sizes = sorted(set(args.blocks)), sorted(set(args.batch_sizes))
        measurements = memory_rows(cfg, args.methods, blocks, batch_sizes)
        total = len(args.methods) * len(blocks) * len(batch_sizes)
        rows = []
        with tqdm(total=total, unit="step") as bar:
            for row in measurements:
                rows.append(row)
                bar.update(row["metric"] == "activation_bytes")
        slopes = slope_rows(rows)
        for metric in ("activation_bytes", "peak_bytes"):
            print_table(rows, slopes, metric)
        save_measurement(
            args.output,
            "memory",
            rows + slopes,
            memory_figure(rows),
            config=args.config_file,
            seeds=[max(cfg.SEED, 0)],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    sys.exit(main())
