"""Compares flow with the detectors that people use instead, at equal epochs and equal seconds.

    tools/peers.py --search-lr 2.5e-4 5e-4 1e-3 --seeds 1 flow=3 TEST.CLASS_SUBSET "['cat','dog']"
    tools/peers.py --epochs 10 30 --seconds 1500 --methods flow faster_rcnn
    tools/peers.py --data path/to/dataset --methods flow backprop faster_rcnn fcos
    tools/peers.py --methods flow=digits_flow backprop=digits_backprop --epochs 1 2

The command trains every method with every budget and seed on VOC 2012 with a frozen ResNet-18,
whose features are computed once for all runs. It measures parameters, activations and inference
time, and writes peers.json, peers.md, peers.png and peers.svg to the output folder.

The JSON file is written after every finished run and keeps the numbers of each. If the command is
stopped, run it again to continue. With --results or --merge it also continues from a JSON file
alone: runs that the file has are not trained again. `KEY VALUE` pairs override every config.

A large GPU trains many runs at the same time with --jobs. They slow each other, so their training
seconds are not recorded. To compare at the training seconds of another machine, measure there what
an epoch takes (--epochs 1) and give that as --epoch-seconds.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import at_least_one, command, command_parser, parse_with_overrides, positive
from flowdet.cli.comparison_command import check_overrides, train_and_report
from flowdet.config.errors import UsageError
from flowdet.reporting.command_line import typed_command

if TYPE_CHECKING:
    from flowdet.experiments.peers import PeerComparison

# the config of each method
METHODS = {
    "flow": "voc_flow_r18_frozen",
    "backprop": "voc_backprop_r18_frozen",
    "box_diffusion": "peers/voc_box_diffusion_r18_frozen",
    "box_flow": "peers/voc_box_flow_r18_frozen",
    "faster_rcnn": "peers/voc_faster_rcnn_r18_frozen",
    "fcos": "peers/voc_fcos_r18_frozen",
}
# methods that are compared only if --methods names them
OTHER_METHODS = {
    "flow_paper": "paper/voc_flow_r18_frozen",
    "backprop_paper": "paper/voc_backprop_r18_frozen",
}
# evaluations during the training, for the curves
PERIODS = ["TEST.EVAL_EPOCHS", "3"]
LENGTH_KEYS = ("SOLVER.MAX_EPOCHS", "SOLVER.MAX_ITER")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    _add_run_arguments(parser.add_argument)
    _add_file_arguments(parser.add_argument)
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides for every config"
    )
    args = parse_with_overrides(parser, argv)
    args.results = args.results or args.output / "peers.json"
    return args


def _add_run_arguments(add: Callable) -> None:
    """Adds the arguments that choose the runs."""
    add(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="METHOD[=CONFIG]",
        help=f"default: {', '.join(METHODS)}; also {', '.join(OTHER_METHODS)}, or a name of your "
        "own with a config",
    )
    add("--epochs", nargs="+", type=positive, default=[10, 30], metavar="N", help="default: 10 30")
    add(
        "--seconds",
        nargs="+",
        type=positive,
        default=[],
        metavar="S",
        help="also train each method for the epochs that take S seconds, according to the time of "
        "its runs of the fewest --epochs",
    )
    add(
        "--search-lr",
        nargs="+",
        type=positive,
        default=[],
        metavar="LR",
        help="train each method with these learning rates, with seed 0 and the fewest --epochs, "
        "and use the one with the highest AP (default: that of the config)",
    )
    add(
        "--seeds",
        nargs="+",
        default=["1"],
        metavar="[METHOD=]N",
        help="train with seeds 0 to N - 1, e.g. 1 flow=3 (default: 1)",
    )
    add(
        "--jobs",
        type=at_least_one,
        default=1,
        metavar="N",
        help="number of runs that are trained at the same time; above 1, training seconds are not "
        "recorded (default: 1)",
    )
    add(
        "--epoch-seconds",
        nargs="+",
        default=[],
        metavar="METHOD=S",
        help="seconds of an epoch of a method, measured on another machine: used for --seconds and "
        "as training seconds",
    )


def _add_file_arguments(add: Callable) -> None:
    """Adds the arguments for the dataset, the runs' folder and the result files."""
    add("--data", metavar="FOLDER", help="train and evaluate on this dataset (DATASETS.PATH)")
    add(
        "--output",
        type=Path,
        default=Path("output/peers"),
        metavar="FOLDER",
        help="folder of the runs (default: output/peers)",
    )
    add(
        "--results",
        type=Path,
        metavar="FILE",
        help="JSON file that is continued; table and figure are written next to it (default: "
        "peers.json in the output folder)",
    )
    add(
        "--merge",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="JSON files of other sessions whose runs are added",
    )
    add(
        "--replace",
        action="store_true",
        help="remove runs from the JSON file whose config has changed (default: an error)",
    )


def method_configs(words: Sequence[str]) -> dict[str, str]:
    """Returns the config of each method, from words like `flow` or `NAME=CONFIG`.

    Raises:
        ValueError: a name is not valid, is given twice, or is unknown and has no config.
    """
    known = METHODS | OTHER_METHODS
    configs: dict[str, str] = {}
    for word in words:
        name, _, config = word.partition("=")
        if name in configs:
            raise UsageError(f"--methods: {name} is given twice")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(
                f"--methods: {word!r} has no valid name: use letters, digits, '_', '-' and '.', "
                "because run folders have this name"
            )
        if not config and name not in known:
            raise UsageError(
                f"--methods: unknown method {word!r}: use one of {', '.join(known)}, or NAME=CONFIG"
            )
        configs[name] = config or known[name]
    return configs


def seeds_per_method(words: Sequence[str], methods: Sequence[str]) -> dict[str, int]:
    """Returns the number of seeds of each method, from words like `1` or `flow=3`.

    A number without a method, or with `*`, is for all methods that have none of their own.

    Raises:
        ValueError: a word has another form, a method is unknown, or a method has no number.
    """
    numbers: dict[str, int] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        name = name if equals else "*"
        if name != "*" and name not in methods:
            raise UsageError(f"--seeds: {name!r} is not compared, only {', '.join(methods)}")
        if not number.isdecimal() or int(number) < 1 or name in numbers:
            raise UsageError(
                f"--seeds: {word!r} is not valid: use N or METHOD=N with N at least 1, each once"
            )
        numbers[name] = int(number)
    missing = [method for method in methods if method not in numbers and "*" not in numbers]
    if missing:
        raise UsageError(
            f"--seeds: {missing[0]} has no number of seeds: add one for all other methods, e.g. "
            f"--seeds 1 {words[0]}"
        )
    return {method: numbers.get(method, numbers.get("*")) for method in methods}


def seconds_per_method(words: Sequence[str], methods: Sequence[str]) -> dict[str, float]:
    """Returns the seconds of an epoch of each method, from words like `flow=44.1`.

    Raises:
        ValueError: a word has another form, or a method is unknown or given twice.
    """
    seconds: dict[str, float] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if name not in methods or name in seconds:
            raise UsageError(
                f"--epoch-seconds: {word!r} is not valid: use METHOD=S, each method once, with one "
                f"of {', '.join(methods)}"
            )
        try:
            seconds[name] = float(positive(number))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--epoch-seconds: {name} {error}") from error
    return seconds


def plan(args: argparse.Namespace) -> PeerComparison:
    """Checks the options and plans the first runs."""
    from flowdet.experiments.digits_setup import prepare_digits
    from flowdet.experiments.measurement import check_output_folder
    from flowdet.experiments.peers import PeerComparison

    check_output_folder(args.output)
    if args.results.suffix != ".json":
        raise UsageError(f"--results must be a .json file, got {args.results}")
    check_output_folder(args.results.parent)
    owned = dict.fromkeys(LENGTH_KEYS, "--epochs")
    owned |= {"SOLVER.BASE_LR": "--search-lr"} if args.search_lr else {}
    owned |= {"DATASETS.PATH": "--data"} if args.data else {}
    check_overrides(args.opts, owned)
    configs = method_configs(args.methods)
    seeds = seeds_per_method(args.seeds, list(configs))
    overrides = [*PERIODS, *prepare_digits(list(configs.values()), args.opts)]
    if args.data:
        # quoted, because a folder named 2024 would be read as a number
        overrides += ["DATASETS.PATH", repr(args.data), "TEST.CLASS_SUBSET", "[]"]
    overrides += ["MODEL.FLOW_DET.FEATURE_CACHE_DIR", str(args.output / "features")]
    return PeerComparison(
        configs,
        args.output,
        args.results,
        [*overrides, *args.opts],
        epochs=args.epochs,
        seconds=args.seconds,
        learning_rates=args.search_lr,
        seeds=seeds,
        merged=args.merge,
        jobs=args.jobs,
        epoch_seconds=seconds_per_method(args.epoch_seconds, list(configs)),
        replace=args.replace,
    )


def report(comparison: PeerComparison) -> None:
    """Prints the tables; writes them as Markdown, and the figure."""
    from flowdet.evaluation.detection import metric_name
    from flowdet.experiments.peers_table import peers_figure, peers_table, search_table
    from flowdet.experiments.recorded_runs import ap_names
    from flowdet.reporting.figures import save_figure
    from flowdet.reporting.results import write_text

    record, path = comparison.record, comparison.results
    cfg = comparison.runs[0].cfg
    metrics, dataset, subset = ap_names(cfg), cfg.DATASETS.TEST[0], cfg.TEST.CLASS_SUBSET
    classes = f"mean over {', '.join(subset)}" if subset else "mean over all classes"
    caption = (
        f"{dataset}, mean +- standard deviation over the seeds; AP after the last epoch, {classes};"
        f" metric: {metric_name(dataset)}. Training seconds are those of the iterations, without "
        "evaluations; cached features of a frozen backbone are computed before. Activations are "
        "those of a training step. Inference is the median time of a single test image, with the "
        "backbone; the methods are timed in turn."
    )
    searched = f"Search of the learning rate, {metrics[-1]} of seed 0:"
    failed = [f"FAILED {folder}, {why}" for folder, why in comparison.failed.items()]
    below = "\n".join([*failed, *comparison.failures])

    def text(style: str) -> str:
        search = search_table(record, metrics[-1], style)
        search = f"{searched}\n\n{search}" if search else ""
        return "\n\n".join(filter(None, (caption, peers_table(record, metrics, style), search)))

    print("\n", text("simple"), f"\n\n{below}" if below else "", sep="")
    parts = (text("github"), below, f"Made by `{typed_command()}`.")
    markdown = write_text(path.with_suffix(".md"), "\n\n".join(filter(None, parts)) + "\n")
    figures = save_figure(peers_figure(record, metrics), path.with_suffix(""))
    print(f"written: {', '.join(map(str, [path, markdown, *figures]))}")


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train_and_report(functools.partial(plan, args), report)


if __name__ == "__main__":
    sys.exit(main())
