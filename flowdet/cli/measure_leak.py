"""Measures how much flow blocks use the image when they are trained on interpolated states.

    tools/measure_leak.py MODEL.WEIGHTS output/digits_pretrain/backbone.pth
    tools/measure_leak.py --config-file configs/cls/digits_flow_vit.yaml --iterations 0 100 300

Interpolated states with t > 0 contain the target. This command trains the blocks of a flow config
on such states for some iterations. Then it measures three values on fixed batches, for every t:

- the anchor loss, the sum of all losses except the flow loss;
- the anchor loss with the features of another image, which is equally low if the blocks ignore the
  image;
- the norm of the gradient of the anchor loss with respect to the features.

`KEY VALUE` pairs override the config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from flowdet.cli.common import (
    at_least_one,
    command,
    command_parser,
    parse_with_overrides,
    user_errors,
)
from flowdet.config.errors import UsageError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--config-file",
        default="configs/digits_flow.yaml",
        help="path or name of the config of a flow model",
    )
    add(
        "--batches",
        type=at_least_one,
        default=8,
        metavar="N",
        help="batches to average over (default: 8)",
    )
    add(
        "--iterations",
        nargs="+",
        type=int,
        default=[0, 300],
        help="numbers of training iterations to measure after (default: 0 300)",
    )
    times = [0, 0.2, 0.4, 0.6, 0.8, 0.95]
    add("--times", nargs="+", type=float, default=times, metavar="T", help="times of the states")
    add(
        "--output",
        type=Path,
        default=Path("output/leak"),
        metavar="FOLDER",
        help="default: %(default)s",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parse_with_overrides(parser, argv)
    if min(args.iterations) < 0:
        parser.error(f"--iterations must not be negative, got {min(args.iterations)}")
    if min(args.times) < 0 or max(args.times) >= 1:
        parser.error("--times must be at least 0 and below 1")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from flowdet.engine import keep_freed_memory, load_config, resolve_config
    from flowdet.experiments.leak import METRICS, leak_figure, leak_rows, with_interpolated_states
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
        if cfg.MODEL.META_ARCHITECTURE.startswith("Backprop"):
            raise UsageError(
                f"{args.config_file} is not the config of a flow model: give another one"
            )
        cfg = with_interpolated_states(cfg)
        measurements = leak_rows(cfg, args.batches, args.iterations, args.times)
        total = len(set(args.iterations)) * len(args.times) * len(METRICS)
        rows = list(tqdm(measurements, total=total, desc="measured", unit=" values"))
        table: dict[tuple, list] = {}
        for row in rows:
            table.setdefault((row["iterations"], row["t"]), []).append(row["mean"])
        lines = [[*key, *values] for key, values in table.items()]
        print(
            tabulate(lines, ["iterations", "t", *METRICS.values()], floatfmt=("", "", *[".3g"] * 3))
        )
        save_measurement(
            args.output,
            "leak",
            rows,
            leak_figure(rows),
            config=args.config_file,
            seeds=[max(cfg.SEED, 0)],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    sys.exit(main())
