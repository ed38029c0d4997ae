"""Compares the accuracy of all methods that train classifiers (Tables 4 and 5).

    tools/table45.py --dataset digits --seeds 3
    tools/table45.py --dataset cifar10_small --seeds 2
    tools/table45.py --dataset mnist --methods flow backprop ff --epochs 5 --seeds 1

The command trains every method with every backbone and seed, prints the table, and writes
table45.json and table45.md to the output folder. If it is interrupted, run it again to continue.

`cifar10_small` has 10,000 images of datasets/make_image_folder.py, a narrow CNN and few epochs.
`mnist_small` has a narrow CNN and few epochs. `KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import command, parse_with_overrides
from flowdet.cli.comparison_command import (
    check_overrides,
    save_table,
    table_parser,
    train_and_report,
)
from flowdet.cli.table3 import (
    BUDGET_OPTIONS,
    SUITES,
    Line,
    add_run_arguments,
    plan_run,
    weights_caption,
)
from flowdet.config.config_files import list_configs

if TYPE_CHECKING:
    from flowdet.experiments.comparison import Comparison

DATASETS = (
    *("digits", "mnist", "mnist_small", "cifar10", "cifar10_small", "cifar100"),
    "tiny_imagenet",
)
# as in the names of the configs in configs/cls/baselines
BASELINES = (
    *("ff", "sff", "cff", "cff_margin", "symba", "collab"),
    *("noprop_dt", "noprop_ct", "noprop_fm", "softhebb"),
)
METHODS = ("flow", "backprop", *BASELINES)
BACKBONES = ("cnn", "vit")


def lines_of(dataset: str) -> dict[tuple[str, str], Line]:
    """Returns the lines of a dataset's table by backbone and method."""
    suite = SUITES[dataset]
    lines = {
        (backbone, method): suite[backbone, "parallel", method]
        for backbone in BACKBONES
        for method in ("flow", "backprop")
        if (backbone, "parallel", method) in suite
    }
    if dataset == "digits":
        lines |= {
            ("cnn", "flow"): Line("digits_flow_cnn"),
            ("cnn", "backprop"): Line("digits_flow_cnn", ["backprop"]),
        }
    name, configs = dataset.removesuffix("_small"), list_configs()
    for backbone in BACKBONES:
        for method in BASELINES:
            config = f"baselines/{name}_{method}_{backbone}"
            if f"cls/{config}" in configs:
                lines[backbone, method] = Line(config)
    return {key: lines[key] for b in BACKBONES for m in METHODS if (key := (b, m)) in lines}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = table_parser(__doc__)
    add = parser.add_argument
    # plan_run of table3 calls it the suite
    add("--dataset", dest="suite", choices=DATASETS, default="digits", help="default: digits")
    add("--backbones", nargs="+", choices=BACKBONES, help="default: all backbones of the dataset")
    add("--methods", nargs="+", choices=METHODS, help="default: all methods of the dataset")
    add_run_arguments(parser)
    args = parse_with_overrides(parser, argv)
    args.lines = _chosen_lines(args, parser)
    args.output = args.output or Path("output") / f"table45_{args.suite}"
    return args


def _chosen_lines(
    args: argparse.Namespace, parser: argparse.ArgumentParser
) -> dict[tuple[str, str], Line]:
    """Returns the lines that the options choose; ends the program if a choice has none."""
    available = lines_of(args.suite)
    backbones, methods = args.backbones or BACKBONES, args.methods or METHODS
    lines = {(b, m): x for (b, m), x in available.items() if b in backbones and m in methods}
    for option, index in (("methods", 1), ("backbones", 0)):
        chosen = {key[index] for key in lines}
        missing = next((x for x in getattr(args, option) or () if x not in chosen), None)
        if missing:
            choices = ", ".join(f"{m} ({b})" for b, m in available)
            parser.error(
                f"--{option}: --dataset {args.suite} has no {missing} in this combination, only "
                f"{choices}"
            )
    return lines


def plan(args: argparse.Namespace) -> Comparison:
    """Plans all runs, and checks options and configs."""
    from flowdet.experiments.comparison import Comparison
    from flowdet.experiments.measurement import check_output_folder

    check_output_folder(args.output)
    check_overrides(args.opts, BUDGET_OPTIONS)
    return Comparison(
        [
            plan_run(args, line, backbone, seed)
            for seed in range(args.seeds)
            for (backbone, _), line in args.lines.items()
        ],
        jobs=args.jobs,
    )


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Prints the table and writes it."""
    from flowdet.experiments.method_table import method_rows, method_table

    rows = method_rows(comparison.runs)
    dataset = comparison.runs[0].cfg.DATASETS.TEST[0]
    caption = (
        f"{dataset}, {args.seeds} seeds, mean +- standard deviation of the accuracy in percent "
        "after the last epoch, in the configured inference mode. The linear read-out is trained "
        "with the model and passes no gradient to it (top 1). The paper's figures are cited from "
        "its Tables 4 and 5. Activations are those of a training step."
    )
    caption += weights_caption(rows, args.weights)
    draw = functools.partial(method_table, rows, args.weights)
    save_table(args.output / "table45", comparison, rows, caption, draw)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), functools.partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
