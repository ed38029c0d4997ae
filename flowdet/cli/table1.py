"""Compares flow and backprop on one dataset with equal epochs, over several seeds (Table 1).

    tools/table1.py
    tools/table1.py --dataset voc --budget 8:50 1:50 --seeds 3
    tools/table1.py --dataset voc --frozen TEST.CLASS_SUBSET "['cat','dog']"
    tools/table1.py --dataset voc --r18 TEST.CLASS_SUBSET "['cat','dog']"

The command trains every method with every budget (batch size:epochs[:learning rate]) and every
seed, measures memory and step time, prints the table, and writes table1.json and table1.md to the
output folder. If it is interrupted, run it again to continue.

--frozen (VOC) uses a frozen ResNet-18 up to stride 16. Its features are computed once for all runs
and kept in the output folder, so that long trainings are possible on a CPU. --r18 (VOC) trains this
ResNet-18 too, on augmented images, and needs a GPU. `KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import functools
import itertools
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
from flowdet.config.config_files import config_path

if TYPE_CHECKING:
    from flowdet.experiments.comparison import Budget, Comparison, Run

# the config of each method, by suite
SUITES = {
    "digits": {
        "flow": "digits_flow",
        "backprop": "digits_backprop",
        "flow_paper": "paper/digits_flow",
        "backprop_paper": "paper/digits_backprop",
    },
    "voc": {
        "flow": "voc_flow_r50",
        "backprop": "voc_backprop_r50",
        "flow_paper": "paper/voc_flow_r50",
        "backprop_paper": "paper/voc_backprop_r50",
    },
    "voc_frozen": {
        "flow": "voc_flow_r18_frozen",
        "backprop": "voc_backprop_r18_frozen",
        "flow_paper": "paper/voc_flow_r18_frozen",
        "backprop_paper": "paper/voc_backprop_r18_frozen",
    },
    "voc_r18": {"flow": "voc_flow_r18", "backprop": "voc_backprop_r18"},
}
BUDGETS = {
    "digits": ["8:6", "1:1:1.25e-4"],
    "voc": ["8:50", "1:50"],
    "voc_frozen": ["16:30"],
    "voc_r18": ["16:20"],
}
# evaluations during the training, for training curves
PERIODS = ["TEST.EVAL_EPOCHS", "2"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = table_parser(__doc__)
    add = parser.add_argument
    add("--dataset", choices=("digits", "voc"), default="digits", help="default: digits")
    add("--frozen", action="store_true", help="VOC with a frozen ResNet-18 and cached features")
    add("--r18", action="store_true", help="VOC with a ResNet-18, trained end to end")
    add("--methods", nargs="+", choices=SUITES["digits"], help="default: all")
    add("--budget", nargs="+", metavar="BATCH:EPOCHS[:LR]", help="default: that of the dataset")
    args = parse_with_overrides(parser, argv)
    if (args.frozen or args.r18) and args.dataset != "voc":
        parser.error("--frozen and --r18 are for --dataset voc")
    if args.frozen and args.r18:
        parser.error("--frozen freezes the backbone that --r18 trains: give one of them")
    args.suite = "voc_frozen" if args.frozen else "voc_r18" if args.r18 else args.dataset
    args.methods = args.methods or list(SUITES[args.suite])
    missing = set(args.methods) - set(SUITES[args.suite])
    if missing:
        parser.error(f"there is no {', '.join(sorted(missing))} for this dataset and backbone")
    args.output = args.output or Path("output") / f"table1_{args.suite}"
    return args


def plan(args: argparse.Namespace) -> Comparison:
    """Checks the options and plans all runs."""
    from flowdet.experiments.comparison import Budget, Comparison, Run
    from flowdet.experiments.digits_setup import prepare_digits
    from flowdet.experiments.measurement import check_output_folder

    check_output_folder(args.output)
    budgets = [Budget.parse(text) for text in args.budget or BUDGETS[args.suite]]
    learning_rate = ["SOLVER.BASE_LR"] if any(budget.base_lr for budget in budgets) else []
    check_overrides(args.opts, dict.fromkeys([*BUDGET_KEYS, *learning_rate], "--budget"))
    suite = SUITES[args.suite]
    files = {method: config_path(f"configs/{suite[method]}.yaml") for method in args.methods}
    overrides = [*PERIODS, *prepare_digits(list(files.values()), args.opts)]
    if args.frozen:
        overrides += ["MODEL.FLOW_DET.FEATURE_CACHE_DIR", str(args.output / "features")]

    def run(method: str, budget: Budget, seed: int) -> Run:
        return Run.plan(files[method], budget, seed, args.output, [*overrides, *args.opts])

    combinations = itertools.product(budgets, range(args.seeds), args.methods)
    runs = [run(method, budget, seed) for budget, seed, method in combinations]
    return Comparison(runs, jobs=args.jobs)


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Measures memory and step time, prints the table and writes it."""
    from flowdet.evaluation.detection import metric_name
    from flowdet.experiments.comparison_table import accuracy_rows, comparison_table, cost_rows

    runs = comparison.runs
    dataset, subset = runs[0].cfg.DATASETS.TEST[0], runs[0].cfg.TEST.CLASS_SUBSET
    suffix = "-subset" if subset else ""
    metrics = [f"AP50{suffix}", f"AP75{suffix}"]
    rows = accuracy_rows(runs, [*metrics, f"AP{suffix}"])
    failures = []
    try:
        rows += cost_rows(runs)
    except RuntimeError as error:
        # a GPU may be too small for all methods at once; the accuracies are written anyway
        failures = [f"FAILED to measure memory and time: {error}"]
    classes = f"mean over {', '.join(subset)}" if subset else "mean over all classes"
    caption = (
        f"{dataset}, {args.seeds} seeds, mean +- standard deviation; AP after the last epoch, "
        f"{classes}; metric: {metric_name(dataset)}. Activations and step time (forward, backward "
        "and update, without data loading) are measured on synthetic images, in turn."
    )
    draw = functools.partial(comparison_table, rows, metrics)
    save_table(args.output / "table1", comparison, rows, caption, draw, failures)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), functools.partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
