"""Table 3: inference modes over backbones, topologies and recipes, over several seeds.

    tools/table3.py
    tools/table3.py --suite cifar10_small --seeds 3
    tools/table3.py --suite cifar100 --backbones vit --methods flow backprop --seeds 1

Trains every config of a suite, backprop among them, with every seed, each by tools/train_net.py,
and prints the table; table3.json and table3.md go to the output folder. Stopped, it goes on where
it was when called again. Suites: `cifar10` and `cifar100` (the paper's length), `cifar10_small`
(10,000 images of datasets/make_image_folder.py, few epochs, a narrow CNN, no AutoAugment) and
`digits` (needs no download). `KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides
from flowdet.cli.comparison_command import (
    check_overrides,
    save_table,
    table_parser,
    train_and_report,
)
from flowdet.engine import load_config
from flowdet.engine.config_files import config_path
from flowdet.experiments.comparison import Budget, Comparison, Run
from flowdet.experiments.measurement import check_output_folder
from flowdet.experiments.mode_table import averaged_weights, line_key, mode_rows, mode_table

# what `cifar10_small` changes in the configs of `cifar10`, for all and by backbone
SMALL = {
    "DATASETS.TRAIN": ("cifar10_subset_train",),
    "DATASETS.TEST": ("cifar10_subset_test",),
    "DATALOADER.NUM_WORKERS": 0,
    # few epochs: small batches, and nothing that pays only in a long training
    "SOLVER.WARMUP_EPOCHS": 1,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.EMA_DECAY": 0.0,
    "INPUT.AUTO_AUGMENT": "",
}
SMALL_CNN = {
    "SOLVER.BASE_LR": 1e-3,
    "MODEL.CNN.CHANNELS": [32, 96, 256],
    "MODEL.FLOW_CLS.HIDDEN_DIM": 128,
    "MODEL.FLOW_CLS.BLOCK_DIM": 512,
    "SOLVER.MAX_EPOCHS": 6,
}
SMALL_VIT = {"SOLVER.MAX_EPOCHS": 3}
OVERRIDES = {"cifar10_small": {"cnn": SMALL | SMALL_CNN, "vit": SMALL | SMALL_VIT}}

BUDGET_OPTIONS = {
    "SOLVER.IMS_PER_BATCH": "--batch-size",
    "SOLVER.MAX_EPOCHS": "--epochs",
    "SOLVER.MAX_ITER": "--epochs",
}


def full_suite(dataset: str) -> dict[tuple[str, str, str], str]:
    """The configs of all there is on a dataset, by backbone, topology and method."""
    suite = {}
    for backbone in ("cnn", "vit"):
        flow = f"{dataset}_flow_{backbone}"
        suite |= {
            (backbone, "parallel", "flow"): flow,
            (backbone, "parallel", "flow_paper"): f"{flow}_paper",
            (backbone, "sequential", "flow"): f"{flow}_sequential",
            (backbone, "sequential", "flow_paper"): f"{flow}_sequential_paper",
            # it reads the last stage
            (backbone, "parallel", "backprop"): f"{dataset}_backprop_{backbone}",
        }
    return suite


SUITES = {
    "cifar10": full_suite("cifar10"),
    "cifar10_small": full_suite("cifar10"),
    "cifar100": full_suite("cifar100"),
    "digits": {
        ("vit", "parallel", "flow"): "digits_flow_vit",
        ("vit", "parallel", "backprop"): "digits_backprop_vit",
    },
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = table_parser(__doc__)
    add = parser.add_argument
    add("--suite", choices=SUITES, default="digits", help="default: digits")
    add("--backbones", nargs="+", choices=("cnn", "vit"), help="default: all of the suite")
    add("--topologies", nargs="+", choices=("parallel", "sequential"), help="of the flow methods")
    add("--methods", nargs="+", choices=("flow", "flow_paper", "backprop"))
    add("--epochs", type=at_least_one, metavar="N", help="default: those of the suite")
    add("--batch-size", type=at_least_one, metavar="N", help="default: that of the config")
    add("--weights", choices=("raw", "ema"), default="raw", help="what the table shows")
    args = parse_with_overrides(parser, argv)
    for name, there in zip(("backbones", "topologies", "methods"), zip(*SUITES[args.suite])):
        wanted = getattr(args, name) or there
        missing = next((x for x in wanted if x not in there), None)
        if missing:
            has = ", ".join(dict.fromkeys(there))
            parser.error(f"--{name}: --suite {args.suite} has no {missing}, only {has}")
        setattr(args, name, wanted)
    args.output = args.output or Path("output") / f"table3_{args.suite}"
    return args


def plan(args: argparse.Namespace) -> Comparison:
    """All runs, checked."""
    check_output_folder(args.output)
    check_overrides(args.opts, BUDGET_OPTIONS)
    chosen = [
        (config_path(f"configs/cls/{config}.yaml"), backbone)
        for (backbone, topology, method), config in SUITES[args.suite].items()
        if backbone in args.backbones
        and method in args.methods
        and (topology in args.topologies or method == "backprop")
    ]
    runs = [
        plan_run(args, file, backbone, seed)
        for seed in range(args.seeds)
        for file, backbone in chosen
    ]
    return Comparison(runs)


def plan_run(args: argparse.Namespace, file: str, backbone: str, seed: int) -> Run:
    """A run of a config, at its own batch size and epochs unless the options name others."""
    keys = OVERRIDES.get(args.suite, {}).get(backbone, {})
    overrides = [*(str(word) for pair in keys.items() for word in pair), *args.opts]
    cfg = load_config(file, overrides)
    budget = Budget(
        args.batch_size or cfg.SOLVER.IMS_PER_BATCH, args.epochs or cfg.SOLVER.MAX_EPOCHS
    )
    name = "_".join(line_key(cfg).values())
    return Run.plan(file, budget, seed, args.output, overrides, name)


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Prints the table and writes it."""
    rows = mode_rows(comparison.runs)
    dataset = comparison.runs[0].cfg.DATASETS.TEST[0]
    caption = (
        f"{dataset}, {args.seeds} seeds, mean +- standard deviation of the top-1 accuracy in per "
        "cent after the last epoch. The linear probe reads the backbone's last stage; backprop has "
        "the flow blocks chained as its head."
    )
    if averaged_weights(rows):
        caption += (
            " Weights: as trained (raw) or their moving average (ema, SOLVER.EMA_DECAY, of the "
            "models that have one); the JSON file has both."
        )
    draw = functools.partial(mode_table, rows, args.weights)
    save_table(args.output / "table3", comparison, rows, caption, draw)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), functools.partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
