"""Trains variants of a detector with one budget and compares their accuracy in every mode.

    tools/ablation.py --study configs/ablations/digits.yaml
    tools/ablation.py --study configs/ablations/digits.yaml --only default backprop --seeds 1

The study file names the variants, the budget and the inference modes. The table is printed and
written to the output folder with a figure, as STUDY.md, STUDY.json and STUDY.svg. The digits
dataset and its backbone are made if they are missing. If the command is interrupted, run it again
to continue. `KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import command, parse_with_overrides
from flowdet.cli.comparison_command import (
    BUDGET_KEYS,
    check_overrides,
    save_table,
    table_parser,
    train_and_report,
)
from flowdet.config.config_files import configs_folder

if TYPE_CHECKING:
    from flowdet.experiments.ablation import Study
    from flowdet.experiments.comparison import Comparison


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = table_parser(__doc__)
    add = parser.add_argument
    add(
        "--study",
        type=Path,
        required=True,
        metavar="FILE",
        help="a file like those in configs/ablations/",
    )
    add("--only", nargs="+", metavar="VARIANT", help="train these variants (default: all)")
    args = parse_with_overrides(parser, argv)
    args.output = args.output or Path("output") / args.study.stem
    return args


def read_study(args: argparse.Namespace) -> Study:
    """The study with the variants of `--only`."""
    from flowdet.experiments.ablation import Study

    # the installed package also contains configs/ablations/
    shipped = configs_folder() / str(args.study).removeprefix("configs/")
    study = Study.read(shipped if shipped.is_file() and not args.study.is_file() else args.study)
    return study.select(args.only) if args.only else study


def plan(args: argparse.Namespace) -> Comparison:
    """Checks the options and plans all runs."""
    from flowdet.experiments.comparison import Comparison, Run
    from flowdet.experiments.digits_setup import prepare_digits
    from flowdet.experiments.measurement import check_output_folder

    check_output_folder(args.output)
    check_overrides(args.opts, dict.fromkeys(BUDGET_KEYS, f"`budget` in {args.study}"))
    study = read_study(args)
    files = [variant.config_file for variant in study.variants]
    overrides = prepare_digits(files, args.opts)
    runs = [
        Run.plan(
            variant.config_file,
            study.budget,
            seed,
            args.output,
            [*overrides, *variant.overrides, *args.opts],
            variant.slug,
        )
        for seed in range(args.seeds)
        for variant in study.variants
    ]
    return Comparison(runs, jobs=args.jobs)


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Evaluates every mode, prints the table and writes it with its figure."""
    from flowdet.evaluation.detection import metric_name
    from flowdet.experiments.ablation import (
        ablation_figure,
        ablation_rows,
        ablation_table,
        group_by_variant,
    )
    from flowdet.reporting.figures import save_figure

    study, runs = read_study(args), comparison.runs
    rows = ablation_rows(group_by_variant(study, runs), study.modes)
    dataset, subset = runs[0].cfg.DATASETS.TEST[0], runs[0].cfg.TEST.CLASS_SUBSET
    classes = f"mean over {', '.join(subset)}" if subset else "mean over all classes"
    caption = (
        f"{dataset}, batch {study.budget.batch_size}, {study.budget.epochs} epochs, {args.seeds} "
        f"seeds, mean +- standard deviation after the last epoch, {classes}; metric: "
        f"{metric_name(dataset)}. Backprop has one mode, its last layer, in the first columns."
    )
    draw = functools.partial(ablation_table, rows, study.modes)
    path = args.output / args.study.stem
    save_table(path, comparison, rows, caption, draw)
    save_figure(ablation_figure(rows, study.modes), path)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), functools.partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
