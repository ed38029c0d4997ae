#!/usr/bin/env python
"""Table 1: flow against backprop on a dataset, at equal epochs, over several seeds.

    tools/table1.py
    tools/table1.py --dataset voc --budget 8:50 1:50 --seeds 3
    tools/table1.py --dataset voc --frozen TEST.CLASS_SUBSET "['cat','dog']"

Trains every method at every budget (batch size:epochs[:learning rate]) with every seed, each by
tools/train_net.py, measures memory and step time, and prints the table; table1.json and table1.md
go to the output folder. Stopped, it goes on where it was when called again. --frozen (VOC) takes a
frozen ResNet-18 up to stride 16, whose features are computed once for all runs and kept in the
output folder: many epochs become affordable on a CPU. `KEY VALUE` pairs override every config.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from flowdet.analysis import changed_keys, write_results
from flowdet.analysis.comparison import Budget, Comparison, Run
from flowdet.analysis.output import check_output_folder
from flowdet.analysis.results import write_text
from flowdet.analysis.table import accuracy_rows, comparison_table, cost_rows
from flowdet.detection.evaluation import metric_name
from flowdet.engine import keep_freed_memory
from flowdet.engine.command import typed_command, user_errors

TOOLS = Path(__file__).parent
CONFIGS = Path(os.path.relpath(TOOLS.parent / "configs"))
DIGITS_BACKBONE = Path("output/digits_pretrain/backbone.pth")

# by suite and method
SUITES = {
    "digits": {
        "flow": "digits_flow",
        "backprop": "digits_backprop",
        "flow_paper": "digits_flow_paper",
        "backprop_paper": "digits_backprop_paper",
    },
    "voc": {
        "flow": "voc_flow_r50_strong",
        "backprop": "voc_backprop_r50_strong",
        "flow_paper": "voc_flow_r50",
        "backprop_paper": "voc_backprop_r50",
    },
    "voc_frozen": {
        "flow": "voc_flow_r18_frozen",
        "backprop": "voc_backprop_r18_frozen",
        "flow_paper": "voc_flow_r18_frozen_paper",
        "backprop_paper": "voc_backprop_r18_frozen_paper",
    },
}
BUDGETS = {
    "digits": ["8:6", "1:1:1.25e-4"],
    "voc": ["8:50", "1:50"],
    "voc_frozen": ["16:10"],
}
# often enough for curves
PERIODS = ["TEST.EVAL_EPOCHS", "2"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", choices=("digits", "voc"), default="digits")
    add("--frozen", action="store_true", help="VOC with a frozen ResNet-18, features kept")
    add("--methods", nargs="+", choices=SUITES["digits"], default=list(SUITES["digits"]))
    add("--budget", nargs="+", metavar="BATCH:EPOCHS[:LR]", help="default: by dataset")
    add("--seeds", type=int, default=2, metavar="N", help="seeds 0 to N - 1 (default 2)")
    add("--output", type=Path, metavar="FOLDER", help="default: output/table1_DATASET")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of every config")
    args = parser.parse_args(argv)
    if args.frozen and args.dataset != "voc":
        parser.error("--frozen is for --dataset voc")
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    args.suite = "voc_frozen" if args.frozen else args.dataset
    args.output = args.output or Path("output") / f"table1_{args.suite}"
    args.opts = [word for word in args.opts if word != "--opts"]
    return args


def prepare_digits(opts: list[str]) -> list[str]:
    """Makes the dataset and the pretrained backbone, if they are not there; their overrides."""
    digits = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "digits"
    wanted = {digits / "manifest.json": ("make_digits.py", digits, [])}
    overrides = []
    if "MODEL.WEIGHTS" not in opts:
        config = ["--config-file", str(CONFIGS / "digits_flow.yaml")]
        wanted[DIGITS_BACKBONE] = ("pretrain_digits.py", DIGITS_BACKBONE, config)
        overrides = ["MODEL.WEIGHTS", str(DIGITS_BACKBONE)]
    for path, (tool, output, extra) in wanted.items():
        if not path.is_file():
            command = [sys.executable, str(TOOLS / tool), "--output", str(output), *extra]
            if subprocess.run(command).returncode:
                raise OSError(f"tools/{tool} has failed, so {path} is missing")
    return overrides


def plan(args: argparse.Namespace) -> Comparison:
    """All runs, checked."""
    check_output_folder(args.output)
    budgets = [Budget.parse(text) for text in args.budget or BUDGETS[args.suite]]
    overrides = list(PERIODS)
    if args.suite == "digits":
        overrides += prepare_digits(args.opts)
    if args.frozen:
        overrides += ["MODEL.FLOW_DET.FEATURE_CACHE_DIR", str(args.output / "features")]
    files = [str(CONFIGS / f"{SUITES[args.suite][method]}.yaml") for method in args.methods]
    runs = [
        Run.plan(file, budget, seed, args.output, [*overrides, *args.opts])
        for budget in budgets
        for seed in range(args.seeds)
        for file in files
    ]
    return Comparison(runs, TOOLS / "train_net.py")


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Measures the costs, prints the table and writes it."""
    runs = comparison.runs
    dataset, subset = runs[0].cfg.DATASETS.TEST[0], runs[0].cfg.TEST.CLASS_SUBSET
    suffix = "-subset" if subset else ""
    metrics = [f"AP50{suffix}", f"AP75{suffix}"]
    rows = accuracy_rows(runs, [*metrics, f"AP{suffix}"])
    failures = "".join(f"FAILED {folder}, {why}\n" for folder, why in comparison.failed.items())
    try:
        rows += cost_rows(runs)
    except RuntimeError as error:
        # a GPU may not hold all methods side by side: no reason to lose the accuracies
        failures += f"FAILED to measure memory and time: {error}\n"
    classes = f"mean over {', '.join(subset)}" if subset else "mean over all classes"
    caption = (
        f"{dataset}, {args.seeds} seeds, mean +- standard deviation; AP after the last epoch, "
        f"{classes}; metric: {metric_name(dataset)}. Activations and step (one forward, backward "
        "and update without data loading, the methods in turn) on made-up images."
    )
    command = typed_command()
    table = comparison_table(rows, metrics)
    print(f"\n{caption}\n\n{table}\n\n{failures}")
    markdown = comparison_table(rows, metrics, "github")
    text = f"{caption}\n\n{markdown}\n\n{failures}\nMade by `{command}`.\n"
    write_text(args.output / "table1.md", text.replace("\n\n\n", "\n\n"))
    write_results(
        args.output / "table1.json",
        rows,
        command=command,
        config=", ".join(dict.fromkeys(run.config_file for run in runs)),
        seeds=list(range(args.seeds)),
        settings={run.folder.name: changed_keys(run.cfg) for run in runs if run.seed == 0},
    )
    print(f"written: {args.output / 'table1.md'}, {args.output / 'table1.json'}")


def main() -> None:
    args = parse_args()
    # a polite stop ends the training under way, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_freed_memory()
    with user_errors():
        comparison = plan(args)
    try:
        comparison.train()
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from here")
    except BlockingIOError as error:
        sys.exit(f"error: {error}")
    report(args, comparison)
    if comparison.failed:
        sys.exit(f"{len(comparison.failed)} of {len(comparison.runs)} runs have failed")


if __name__ == "__main__":
    main()
