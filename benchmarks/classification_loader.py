#!/usr/bin/env python
"""Measures the speed of the training loader relative to that of the training step.

    benchmarks/classification_loader.py
    benchmarks/classification_loader.py --config-file configs/cls/cifar100_flow_cnn.yaml \\
        --output docs/results/bench_loader.json DATASETS.DOWNLOAD True

Loader and training step run in turn in this process, without loader workers. The values are medians
over several rounds. A ratio above 1 means that a single process loads images faster than the
training step uses them. The dataset of the config must exist; the default config needs no download.
`KEY VALUE` pairs override the config.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors

# isort: split
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from flowdet.engine import build_optimizer, keep_freed_memory, load_config, resolve_config
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import task_of
from flowdet.experiments.training_steps import train_step
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, write_results

# each entry also has the augmentations of the entries before it
AUGMENTATIONS = {
    "none": {"INPUT.CROP_PADDING": 0, "INPUT.RANDOM_FLIP": "none", "INPUT.AUTO_AUGMENT": ""}
    | {"INPUT.RANDOM_ERASING": 0.0, "INPUT.RANDOM_ROTATION": 0.0},
    "crop and flip": {"INPUT.CROP_PADDING": 4, "INPUT.RANDOM_FLIP": "horizontal"},
    "+ erasing": {"INPUT.RANDOM_ERASING": 0.25},
    "+ rotation": {"INPUT.RANDOM_ROTATION": 20.0},
    "+ AutoAugment": {"INPUT.AUTO_AUGMENT": "cifar10"},
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="configs/cls/digits_flow_vit.yaml", help="config of a classifier")
    add("--rounds", type=at_least_one, default=5, help="measurements (default: 5)")
    add("--batches", type=at_least_one, default=4, help="batches per round (default: 4)")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, None)


def mean_seconds(function: Callable[[], object], count: int) -> float:
    """Returns the mean duration of a call in seconds, over `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count


def measure(args: argparse.Namespace, cfg: CfgNode) -> dict[str, float]:
    """Measures the seconds per batch of the loader, by augmentation, and of the training `step`."""
    loaders, keys = {}, {}
    for name, added in AUGMENTATIONS.items():
        keys |= added
        loaders[name] = iter(task_of(cfg).build_train_loader(with_keys(cfg, keys)))
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    batch = next(loaders["none"])
    actions = {name: lambda it=loader: next(it) for name, loader in loaders.items()}
    actions["step"] = lambda: train_step(model, batch, optimizer)
    seconds = {name: [] for name in actions}
    for _, (name, action) in itertools.product(range(args.rounds + 1), actions.items()):
        seconds[name].append(mean_seconds(action, args.batches))
    # the first round warms up
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with user_errors():
        cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
        resolve_config(cfg)
        seconds = measure(args, cfg)
    size, rows = cfg.SOLVER.IMS_PER_BATCH, []
    for name, value in seconds.items():
        ratio = seconds["step"] / value
        print(f"{name:16} {size / value:10.0f} images/s   {ratio:8.1f} x the training step")
        common = {"method": name, "dataset": cfg.DATASETS.TRAIN[0], "batch_size": size}
        rows.append(common | {"metric": "images_per_second", "mean": round(size / value, 1)})
        rows.append(common | {"metric": "ratio_to_step", "mean": round(ratio, 2)})
    if args.output:
        write_results(
            args.output,
            [row | {"std": None, "n": args.rounds} for row in rows],
            command=typed_command(),
            config=args.config_file,
            seeds=[cfg.SEED],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    main()
