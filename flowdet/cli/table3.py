"""Compares the accuracy of every inference mode, backbone, topology and method (Tables 2 to 5).

    tools/table3.py
    tools/table3.py --suite cifar10_small --seeds 3
    tools/table3.py --suite cifar100 --backbones vit --methods flow backprop --seeds 1

The command trains every model of a suite with every seed, prints the table, and writes table3.json
and table3.md to the output folder. If it is interrupted, run it again to continue.

Suites: `digits` (needs no download), `cifar10_small` (10,000 images of
datasets/make_image_folder.py, few epochs, a narrow CNN, no AutoAugment), `mnist_small` (few epochs,
a narrow CNN), and with the paper's schedules `cifar10`, `cifar100`, `mnist`, `tiny_imagenet` and,
fine-tuned from ImageNet weights, `cifar10_vit_b16`, `cifar100_vit_b16`, `imagenet_r_vit_b16`.
`KEY VALUE` pairs override every config.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flowdet.cli.common import at_least_one, command, parse_with_overrides
from flowdet.cli.comparison_command import (
    check_overrides,
    save_table,
    table_parser,
    train_and_report,
)
from flowdet.config.config_files import config_path

if TYPE_CHECKING:
    from flowdet.experiments.comparison import Comparison, Run

# keys in which `cifar10_small` differs from `cifar10`: for all models, then for each backbone
SMALL = {
    "DATASETS.TRAIN": ("cifar10_subset_train",),
    "DATASETS.TEST": ("cifar10_subset_test",),
    "DATALOADER.NUM_WORKERS": 0,
    # few epochs: small batches, and no settings that only help in a long training
    "SOLVER.WARMUP_EPOCHS": 1,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.EMA_DECAY": 0.0,
    "INPUT.AUTO_AUGMENT": "",
}
# methods whose cost grows with a number of networks or of copies, see configs/cls/baselines
SMALL_BASELINES = {
    "MODEL.NOPROP.NUM_BLOCKS": 4,
    "MODEL.SFF.SAMPLES": 4,
    "MODEL.SFF.INFERENCE_SAMPLES": 4,
}
SMALL_CNN = {
    "SOLVER.BASE_LR": 1e-3,
    "MODEL.CNN.CHANNELS": [32, 96, 256],
    "MODEL.FLOW_CLS.HIDDEN_DIM": 128,
    "MODEL.FLOW_CLS.BLOCK_DIM": 512,
    "SOLVER.MAX_EPOCHS": 6,
}
SMALL_VIT = {"SOLVER.MAX_EPOCHS": 3}
# keys in which `mnist_small` differs from `mnist`
SMALL_MNIST = {
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.WARMUP_EPOCHS": 1,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.MAX_EPOCHS": 3,
    "MODEL.CNN.CHANNELS": [16, 48, 128],
    "MODEL.FLOW_CLS.HIDDEN_DIM": 128,
    "MODEL.FLOW_CLS.BLOCK_DIM": 256,
}
OVERRIDES = {
    "cifar10_small": {
        "cnn": SMALL | SMALL_BASELINES | SMALL_CNN,
        "vit": SMALL | SMALL_BASELINES | SMALL_VIT,
    },
    "mnist_small": {"cnn": SMALL_BASELINES | SMALL_MNIST},
}

BUDGET_OPTIONS = {
    "SOLVER.IMS_PER_BATCH": "--batch-size",
    "SOLVER.MAX_EPOCHS": "--epochs",
    "SOLVER.MAX_ITER": "--epochs",
}


class Line(NamedTuple):
    """A line of the table: a config, and the overlays that change it.

    Attributes:
        config: a config in configs/cls.
        overlays: files in configs/cls/bases, in the order in which they are applied.
    """

    config: str
    overlays: Sequence[str] = ()

    def overrides(self) -> list[str]:
        """The keys of the overlays, as `KEY VALUE` pairs."""
        from flowdet.engine.config import overlay_overrides

        return [x for name in self.overlays for x in overlay_overrides(f"cls/bases/{name}")]


# by (backbone, topology, method)
Suite = dict[tuple[str, str, str], Line]


def backbone_lines(
    config: str,
    backbone: str,
    *,
    sequential: Sequence[str] = (),
    sequential_paper: Sequence[str] = (),
    backprop: str = "backprop",
) -> Suite:
    """The lines of a dataset with one backbone.

    Args:
        config: a config in configs/cls.
        backbone: `cnn` or `vit`.
        sequential: the overlays of the sequential topology; without them it gets no lines.
        sequential_paper: the overlays of the sequential topology with the paper's recipe.
        backprop: the overlay of the end-to-end baseline, which reads the last stage.
    """
    lines = {
        (backbone, "parallel", "flow"): Line(config),
        (backbone, "parallel", "flow_paper"): Line(config, ["paper"]),
    }
    if sequential:
        lines |= {
            (backbone, "sequential", "flow"): Line(config, sequential),
            (backbone, "sequential", "flow_paper"): Line(config, sequential_paper),
        }
    return lines | {(backbone, "parallel", "backprop"): Line(config, [backprop])}


def cifar_suite(dataset: str, cnn_overlay: str) -> Suite:
    """The lines of all methods and topologies, with a CNN and with a ViT.

    Args:
        dataset: `cifar10` or `cifar100`.
        cnn_overlay: the overlay of the sequential CNN.
    """
    cnn = backbone_lines(
        f"{dataset}_flow_cnn",
        "cnn",
        sequential=[cnn_overlay],
        sequential_paper=[cnn_overlay, "paper"],
    )
    vit = backbone_lines(
        f"{dataset}_flow_vit",
        "vit",
        sequential=["sequential"],
        sequential_paper=["sequential_paper_vit"],
    )
    return cnn | vit


SUITES: dict[str, Suite] = {
    "cifar10": cifar_suite("cifar10", "sequential"),
    "cifar10_small": cifar_suite("cifar10", "sequential"),
    "cifar100": cifar_suite("cifar100", "sequential_light"),
    "digits": {
        ("vit", "parallel", "flow"): Line("digits_flow_vit"),
        ("vit", "parallel", "backprop"): Line("digits_flow_vit", ["backprop"]),
    },
    "mnist": backbone_lines("mnist_flow_cnn", "cnn"),
    "mnist_small": backbone_lines("mnist_flow_cnn", "cnn"),
    "tiny_imagenet": backbone_lines("tiny_imagenet_flow_vit", "vit"),
    **{
        f"{dataset}_vit_b16": backbone_lines(
            f"{dataset}_flow_vit_b16", "vit", backprop="backprop_encoder"
        )
        for dataset in ("cifar10", "cifar100", "imagenet_r")
    },
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = table_parser(__doc__)
    add = parser.add_argument
    add("--suite", choices=SUITES, default="digits", help="default: digits")
    add(
        "--backbones",
        nargs="+",
        choices=("cnn", "vit"),
        help="default: all backbones of the suite",
    )
    add(
        "--topologies",
        nargs="+",
        choices=("parallel", "sequential"),
        help="topologies of the flow methods (default: all topologies of the suite)",
    )
    add(
        "--methods",
        nargs="+",
        choices=("flow", "flow_paper", "backprop"),
        help="default: all methods of the suite",
    )
    add_run_arguments(parser)
    args = parse_with_overrides(parser, argv)
    for name, available in zip(("backbones", "topologies", "methods"), zip(*SUITES[args.suite])):
        requested = getattr(args, name) or available
        missing = next((x for x in requested if x not in available), None)
        if missing:
            choices = ", ".join(dict.fromkeys(available))
            parser.error(f"--{name}: --suite {args.suite} has no {missing}, only {choices}")
        setattr(args, name, requested)
    args.output = args.output or Path("output") / f"table3_{args.suite}"
    return args


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options `--epochs`, `--batch-size` and `--weights`."""
    add = parser.add_argument
    add("--epochs", type=at_least_one, metavar="N", help="default: the epochs of the config")
    add("--batch-size", type=at_least_one, metavar="N", help="default: the config's batch size")
    add(
        "--weights",
        choices=("raw", "ema"),
        default="raw",
        help="the weights of the table (default: raw; ema: the averaged weights)",
    )


def plan(args: argparse.Namespace) -> Comparison:
    """Plans all runs, and checks options and configs."""
    from flowdet.experiments.comparison import Comparison
    from flowdet.experiments.measurement import check_output_folder

    check_output_folder(args.output)
    check_overrides(args.opts, BUDGET_OPTIONS)
    lines = [
        (backbone, line)
        for (backbone, topology, method), line in SUITES[args.suite].items()
        if backbone in args.backbones
        and method in args.methods
        # backprop has no topology: it reads the last stage
        and (topology in args.topologies or method == "backprop")
    ]
    runs = [
        plan_run(args, line, backbone, seed)
        for seed in range(args.seeds)
        for backbone, line in lines
    ]
    return Comparison(runs, jobs=args.jobs)


def plan_run(args: argparse.Namespace, line: Line, backbone: str, seed: int) -> Run:
    """Plans a run of a line; the options `--batch-size` and `--epochs` override the config."""
    from flowdet.config import flat_items
    from flowdet.engine import load_config
    from flowdet.engine.config import with_keys
    from flowdet.engine.config_effects import why_without_effect
    from flowdet.experiments.comparison import Budget, Run
    from flowdet.experiments.mode_table import line_key

    file = config_path(f"configs/cls/{line.config}.yaml")
    cfg = load_config(file, [*line.overrides(), *args.opts])
    keys = OVERRIDES.get(args.suite, {}).get(backbone, {})
    keys = {name: value for name, value in keys.items() if name not in args.opts[::2]}
    cfg = with_keys(cfg, keys)
    # a suite has keys of several methods: load_config would warn of those without effect
    values = dict(flat_items(cfg))
    read = {name: x for name, x in keys.items() if not why_without_effect(name, values)}
    overrides = [*line.overrides(), *(str(x) for pair in read.items() for x in pair), *args.opts]
    budget = Budget(
        args.batch_size or cfg.SOLVER.IMS_PER_BATCH, args.epochs or cfg.SOLVER.MAX_EPOCHS
    )
    name = "_".join(line_key(cfg).values())
    return Run.plan(file, budget, seed, args.output, overrides, name)


def weights_caption(rows: Sequence[dict], shown: str) -> str:
    """Returns a sentence on the weights of the table; "" if no model averages its weights."""
    from flowdet.experiments.mode_table import averaged_weights

    if not averaged_weights(rows):
        return ""
    return (
        f" Weights: {shown}; raw are those as trained, ema their moving average for models that "
        "have one (SOLVER.EMA_DECAY). The JSON file has both."
    )


def report(args: argparse.Namespace, comparison: Comparison) -> None:
    """Prints the table and writes it."""
    from flowdet.experiments.mode_table import mode_rows, mode_table

    rows = mode_rows(comparison.runs)
    dataset = comparison.runs[0].cfg.DATASETS.TEST[0]
    caption = (
        f"{dataset}, {args.seeds} seeds, mean +- standard deviation of the top-1 accuracy in "
        "percent after the last epoch. The linear probe reads the backbone's last stage; the head "
        "of backprop is the chain of all flow blocks."
    )
    caption += weights_caption(rows, args.weights)
    draw = functools.partial(mode_table, rows, args.weights)
    save_table(args.output / "table3", comparison, rows, caption, draw)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), functools.partial(report, args))


if __name__ == "__main__":
    sys.exit(main())
