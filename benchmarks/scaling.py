#!/usr/bin/env python
"""Measures time and activation memory of training steps over T, M, image size, classes and batch.

    OMP_NUM_THREADS=1 benchmarks/scaling.py --output docs/results/scaling.json

Most settings change one number of the first; the last two change all of them and are kept out of
the fit of the cost model (flowdet.experiments.speed.cost_model), which must predict them. The steps
of all settings run in turn; a time is relative to the first setting in the same round. On a CPU it
is the CPU time of this process, so that other work on the machine matters little. `KEY VALUE` pairs
override every config.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from flowdet.cli.common import at_least_one, command_parser, parse_with_overrides, user_errors
from flowdet.reporting.command_line import typed_command

CONFIG = "voc_flow_r18_frozen"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--config-file", default=CONFIG, help="config of the flow detector (default: %(default)s)")
    add("--rounds", type=at_least_one, default=5, help="measurements (default: 5)")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every config")
    return parse_with_overrides(parser, argv)


def settings():
    """Returns the settings to fit, the first of which is the reference, and those to predict."""
    from flowdet.experiments.speed.cost_model import Setting

    base = Setting(num_blocks=4, num_queries=50, side=256, num_classes=20, batch_size=2)
    changed = [
        *({"num_blocks": count} for count in (2, 8, 16)),
        *({"num_queries": count} for count in (100, 300)),
        *({"side": side} for side in (160, 384)),
        {"num_classes": 320},
        *({"batch_size": size} for size in (1, 4)),
        # these tell the costs of a pixel in the backbone from those in the blocks
        {"num_blocks": 8, "side": 352},
        {"num_blocks": 2, "side": 480},
    ]
    flow = [base, *(replace(base, **keys) for keys in changed)]
    kept_out = [
        Setting(num_blocks=6, num_queries=200, side=320, num_classes=80, batch_size=3),
        Setting(num_blocks=12, num_queries=80, side=448, num_classes=40, batch_size=1),
    ]
    return flow, kept_out


def measure(args: argparse.Namespace) -> list[dict]:
    """Measures all settings with both methods; returns the rows."""
    import torch
    from detectron2.utils.events import EventStorage

    from flowdet.experiments.memory import measure_step
    from flowdet.experiments.speed.setup import ratio, single
    from flowdet.experiments.speed.training import training_call
    from flowdet.experiments.timing import interleaved_seconds

    flow, kept_out = settings()
    rows, calls, columns = [], [], []
    with EventStorage():
        for setting in [*flow, *kept_out]:
            for method in ("flow", "backprop"):
                chosen = replace(setting, method=method)
                cfg = config_of(args, chosen)
                columns.append(asdict(chosen) | {"kept_out": setting in kept_out})
                bytes_ = measure_step(cfg, chosen.batch_size).activation
                rows.append(columns[-1] | {"metric": "activation_bytes"} | single(bytes_))
                calls.append(training_call(cfg, chosen.batch_size))
        clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        seconds = interleaved_seconds(calls, args.rounds, 1, clock)
    for column, values in zip(columns, seconds):
        rows.append(column | {"metric": "step_time_ratio"} | ratio(values, seconds[0]))
    return rows


def config_of(args: argparse.Namespace, setting):
    """Returns the config of a setting."""
    from flowdet.experiments.memory import with_method
    from flowdet.experiments.speed.setup import bench_config, with_size

    names = [f"class {i}" for i in range(setting.num_classes)]
    overrides = {
        "MODEL.FLOW_DET.NUM_QUERIES": setting.num_queries,
        "MODEL.FLOW_DET.NUM_CLASSES": setting.num_classes,
        "MODEL.CLASS_NAMES": names,
    }
    words = [x for pair in overrides.items() for x in pair]
    method = "flow_joint" if setting.method == "flow" else "backprop"
    cfg = with_size(bench_config(args.config_file, [*words, *args.opts]), setting.side)
    return with_method(cfg, method, setting.num_blocks)


def print_predictions(rows: list[dict]) -> None:
    """Fits the cost model and prints its predictions of the settings that were kept out."""
    from tabulate import tabulate

    from flowdet.experiments.speed.cost_model import prediction_errors

    table = [
        [metric, *asdict(setting).values(), f"{cost:.4g}", f"{error:+.1%}"]
        for metric, setting, cost, error in prediction_errors(rows)
    ]
    headers = ["metric", "T", "M", "side", "classes", "batch", "method", "measured", "error"]
    print(tabulate(table, headers, disable_numparse=True))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.engine import keep_freed_memory
    from flowdet.experiments.speed.setup import SEED, bench_config
    from flowdet.reporting.results import changed_keys, write_results

    keep_freed_memory()
    with user_errors():
        rows = measure(args)
        print_predictions(rows)
        if args.output:
            cfg = bench_config(args.config_file, args.opts)
            write_results(
                args.output,
                rows,
                command=typed_command(),
                config=args.config_file,
                seeds=[SEED],
                settings=changed_keys(cfg),
            )


if __name__ == "__main__":
    sys.exit(main())
