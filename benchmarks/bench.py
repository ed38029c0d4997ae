#!/usr/bin/env python
"""Measures how fast flowdet is, how much memory it takes, and how it compares with other detectors.

    benchmarks/bench.py
    benchmarks/bench.py --quick --compare docs/results/bench.json
    benchmarks/bench.py --parts inference peers --rounds 40 --output output/bench

The models have random weights and the images are noise, so nothing is downloaded. It runs on the
GPU if there is one. The functions of a table run in turn in one process, and a ratio is computed
for each round, so that other load on the machine affects all of them alike. Tables show the median
and, in brackets, the quartiles. Every memory is measured in a process of its own.

Parts: `inference` relative to the backbone, `training` relative to backpropagation, `profile`: the
shares of backbone, blocks, heads ... in both, `memory` of a training, `loader` relative to the
training step, `peers` relative to flowdet, and `throughput` over batch size and image size. Peers
need `pip install '.[bench]'`; one whose library is missing is left out.

The command writes bench.json and throughput.png to the output folder. With `--compare FILE` the
exit status is 1 if something is slower than in FILE, or needs more memory, or if no row can be
compared. `KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flowdet.cli.common import at_least_one, command_parser, parse_with_overrides, user_errors
from flowdet.reporting.command_line import typed_command

PARTS = ("inference", "training", "profile", "memory", "loader", "peers", "throughput")
CONFIG = "voc_flow_r50"
# the flow configs whose training is measured, with those of backpropagation
TRAINED = {
    "voc_flow_r50": "voc_backprop_r50",
    "voc_flow_r18_frozen": "voc_backprop_r18_frozen",
}
# the config whose other ways of training are measured too, and their keys by method; names of
# variants of the backprop config start with "backprop"
VARIED = "voc_flow_r18_frozen"
_AT_START = ("MODEL.FLOW_DET.LEARN_AT_START", "True")
_INTERPOLATED = ("MODEL.FLOW_DET.TRAINING_STATES", "interpolated")
_PARALLEL = ("MODEL.FLOW_DET.BLOCK_EXECUTION", "parallel")
VARIANTS = {
    "flow_learn_at_start": _AT_START,
    "flow_learn_at_start_parallel": _AT_START + _PARALLEL,
    "flow_interpolated": _INTERPOLATED,
    "flow_interpolated_parallel": _INTERPOLATED + _PARALLEL,
    "backprop_checkpointed": ("MODEL.FLOW_DET.CHECKPOINT_BLOCKS", "True"),
}
MEMORY_METHODS = ("flow_joint", "backprop", "backprop_checkpointed")


class Extent(NamedTuple):
    """How much is measured.

    Attributes:
        rounds: measurements of short functions; training steps and large batches get fewer.
        batch_sizes: images per call or step.
        blocks: numbers of blocks T whose memory is measured.
        throughput_batches, sides: batch sizes, and heights and widths, of the figure.
    """

    rounds: int
    batch_sizes: Sequence[int]
    blocks: Sequence[int]
    throughput_batches: Sequence[int]
    sides: Sequence[int]


FULL = Extent(20, (1, 8), (4, 8, 16, 24), (1, 2, 4, 8, 16, 32), (256, 384, 512, 768, 1024))
QUICK = Extent(3, (1,), (4, 8), (1, 2), (256, 384))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add("--quick", action="store_true", help="few rounds and settings, to see that it works")
    add("--rounds", type=at_least_one, help="measurements (default: 20; 3 with --quick)")
    add("--config-file", default=CONFIG, help="config of the flow detector (default: %(default)s)")
    add("--compare", type=Path, metavar="FILE", help="say what is worse than in this bench.json")
    add(
        "--output",
        type=Path,
        default=Path("output/bench"),
        metavar="FOLDER",
        help="folder for bench.json and the figure (default: %(default)s)",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every config")
    return parse_with_overrides(parser, argv)


def measure(args: argparse.Namespace, extent: Extent) -> list[dict]:
    """Measures the parts of `--parts`; prints each table when it is complete."""
    from flowdet.experiments.speed.tables import print_rows

    functions: dict[str, Callable[[argparse.Namespace, Extent], list[dict]]] = {
        "inference": measure_inference,
        "training": measure_training,
        "profile": measure_profile,
        "memory": measure_memory,
        "loader": measure_loader,
        "peers": measure_peers,
        "throughput": measure_throughput,
    }
    rows = []
    for part in PARTS:
        if part in args.parts:
            rows += (measured := functions[part](args, extent))
            print_rows(part, measured)
    return rows


def measure_inference(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.inference import inference_rows
    from flowdet.experiments.speed.setup import bench_config

    cfg = bench_config(args.config_file, args.opts)
    return inference_rows(cfg, extent.batch_sizes, extent.rounds)


def measure_training(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.setup import bench_config
    from flowdet.experiments.speed.training import step_rows

    rows = []
    for flow, backprop in TRAINED.items():
        cfgs = {
            "flow": bench_config(flow, args.opts),
            "backprop": bench_config(backprop, args.opts),
        }
        if flow == VARIED:
            for method, keys in VARIANTS.items():
                base = backprop if method.startswith("backprop") else flow
                cfgs[method] = bench_config(base, [*args.opts, *keys])
        rows += step_rows(cfgs, flow, extent.batch_sizes, max(extent.rounds // 2, 1))
    return rows


def measure_profile(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.profile import profile_rows
    from flowdet.experiments.speed.setup import bench_config

    rounds = max(extent.rounds // 2, 1)
    measured = [(args.config_file, "inference"), *((name, "training") for name in TRAINED)]
    rows = []
    for name, call in measured:
        rows += profile_rows(bench_config(name, args.opts), name, extent.batch_sizes, rounds, call)
    return rows


def measure_memory(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from tqdm import tqdm

    from flowdet.experiments.speed.memory import memory_rows

    rows = []
    for config in TRAINED:
        # a frozen backbone is measured with one batch size
        sizes = extent.batch_sizes[-1:] if "frozen" in config else extent.batch_sizes
        measured = memory_rows(config, args.opts, MEMORY_METHODS, extent.blocks, sizes)
        total = len(sizes) * len(MEMORY_METHODS) * len(extent.blocks)
        rows += tqdm(measured, total=total, desc=f"memory of {config}")
    return rows


def measure_loader(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.loader import loader_rows

    return loader_rows(list(TRAINED), args.opts, (1, 2), max(extent.rounds // 4, 1))


def measure_peers(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.peers import PEERS, available_peers, peer_rows

    names = available_peers(list(PEERS), print)
    rounds = max(extent.rounds // 2, 1)
    return peer_rows(args.config_file, args.opts, names, extent.batch_sizes, rounds)


def measure_throughput(args: argparse.Namespace, extent: Extent) -> list[dict]:
    from flowdet.experiments.speed.setup import bench_config
    from flowdet.experiments.speed.throughput import throughput_rows

    cfg, rounds = bench_config(args.config_file, args.opts), max(extent.rounds // 7, 1)
    return throughput_rows(cfg, extent.throughput_batches, extent.sides, rounds)


def save(args: argparse.Namespace, rows: list[dict]) -> None:
    """Writes bench.json, and the figure if the throughput was measured."""
    from flowdet.experiments.speed.setup import SEED, bench_config
    from flowdet.experiments.speed.throughput import throughput_figure
    from flowdet.reporting.figures import save_figure
    from flowdet.reporting.results import changed_keys, write_results

    configs = dict.fromkeys([args.config_file, *TRAINED])
    written = [
        write_results(
            args.output / "bench.json",
            rows,
            command=typed_command(),
            config=", ".join(configs),
            seeds=[SEED],
            settings={name: changed_keys(bench_config(name, args.opts)) for name in configs},
        )
    ]
    if "throughput" in args.parts:
        written += save_figure(throughput_figure(rows), args.output / "throughput")
    print(f"written: {', '.join(map(str, written))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if `--compare` finds something worse, or nothing to compare."""
    args = parse_args(argv)
    from flowdet.engine import keep_freed_memory
    from flowdet.experiments.measurement import check_output_folder
    from flowdet.experiments.speed.comparison import compare, read_earlier
    from flowdet.experiments.speed.setup import bench_config, check_flow

    extent = QUICK if args.quick else FULL
    extent = extent._replace(rounds=args.rounds or extent.rounds)
    with user_errors():
        # all before a long measurement
        check_output_folder(args.output)
        earlier = read_earlier(args.compare, args.config_file) if args.compare else None
        check_flow(bench_config(args.config_file, args.opts))
        keep_freed_memory()
        rows = measure(args, extent)
        save(args, rows)
    if earlier is None:
        return 0
    worse, compared = compare(rows, earlier)
    if not compared:
        print(f"no row of {args.compare} has the settings of this run: nothing was compared")
        return 1
    print("\n".join([*worse, f"{len(worse)} of {compared} rows are worse than in {args.compare}"]))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
