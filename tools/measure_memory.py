#!/usr/bin/env python
"""Memory of a training step against the number of blocks T (Figure 3).

    tools/measure_memory.py
    tools/measure_memory.py --config-file configs/digits_flow.yaml --blocks 2 4 8 --batch-sizes 16

On a GPU what the allocator has handed out, on a CPU the bytes of the tensors that are kept for the
backward pass. Images are made up: no dataset is needed. `KEY VALUE` pairs override the config.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from tabulate import tabulate
from tqdm import tqdm

from flowdet.analysis import changed_keys
from flowdet.analysis.memory import METHODS, StepMemory, memory_figure, memory_rows, slope_rows
from flowdet.analysis.output import save_measurement
from flowdet.engine import load_config, resolve_config
from flowdet.engine.command import user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="configs/voc_flow_r50.yaml", help="of a FlowMatchingDetector")
    add("--blocks", nargs="+", type=int, default=[4, 8, 16, 20, 24], metavar="T")
    add("--batch-sizes", nargs="+", type=int, default=[1, 8], metavar="B")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--output", type=Path, default=Path("output/memory"), metavar="FOLDER")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser.parse_args(argv)


def print_tables(rows: list[dict], slopes: list[dict]) -> None:
    """Activations over T, with the slope per block."""
    per_block = {(row["batch_size"], row["method"]): row["mean"] for row in slopes}
    table: dict[tuple, dict] = {}
    for row in rows:
        if row["metric"] == "activation_bytes":
            key = (row["batch_size"], row["method"])
            line = table.setdefault(key, {"batch": key[0], "method": key[1]})
            line[f"T={row['num_blocks']}"] = f"{row['mean'] / 2**20:.1f}"
    for key, line in table.items():
        line["bytes per block"] = f"{per_block[key]:,}" if key in per_block else "-"
    print("peak activations in MiB, and the least-squares slope:")
    print(tabulate(list(table.values()), headers="keys", disable_numparse=True))


def main() -> None:
    args = parse_args()
    with user_errors():
        cfg = resolve_config(load_config(args.config_file, args.opts), training=False)
        blocks, batch_sizes = sorted(set(args.blocks)), sorted(set(args.batch_sizes))
        measurements = memory_rows(cfg, args.methods, blocks, batch_sizes)
        total = len(fields(StepMemory)) * len(args.methods) * len(blocks) * len(batch_sizes)
        rows = list(tqdm(measurements, total=total, desc="measured", unit=" values"))
    slopes = slope_rows(rows)
    print_tables(rows, slopes)
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
    main()
