#!/usr/bin/env python
"""Images per second of the training loader against those of the training step.

    benchmarks/classification_loader.py
    benchmarks/classification_loader.py --config-file configs/cls/cifar100_flow_cnn.yaml \\
        --output docs/results/bench_loader.json DATASETS.DOWNLOAD True

Both in this process, without loader workers, in turn, and the median of several rounds: a ratio
above 1 says that one process's loading keeps up with the model. `KEY VALUE` pairs override the
config. The loader needs the dataset of the config; the default's needs nothing.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
from detectron2.modeling import build_model

from flowdet.cli.common import parse_with_overrides, user_errors
from flowdet.engine import build_optimizer, keep_freed_memory, load_config, resolve_config
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import task_of
from flowdet.experiments.training_steps import train_step
from flowdet.reporting.results import changed_keys, typed_command, write_results

# added one after the other
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
    add("--config-file", default="configs/cls/digits_flow_vit.yaml")
    add("--rounds", type=int, default=5, help="of which the median is taken")
    add("--batches", type=int, default=4, help="per round")
    add("--output", type=Path, help="a JSON for the figures")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parse_with_overrides(parser, None)


def seconds(function, count: int) -> float:
    """The mean duration of a call."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count


def measure(args: argparse.Namespace, cfg) -> dict[str, float]:
    """Seconds per batch: of the loader with each augmentation, and of the model's `step`."""
    loaders, keys = {}, {}
    for name, added in AUGMENTATIONS.items():
        keys |= added
        loaders[name] = iter(task_of(cfg).build_train_loader(with_keys(cfg, keys)))
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    batch = next(loaders["none"])
    actions = {name: lambda it=loader: next(it) for name, loader in loaders.items()}
    actions["step"] = lambda: train_step(model, batch, optimizer)
    found = {name: [] for name in actions}
    for _, (name, action) in itertools.product(range(args.rounds + 1), actions.items()):
        found[name].append(seconds(action, args.batches))
    # the first round warms up
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with user_errors():
        cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
        resolve_config(cfg)
        found = measure(args, cfg)
    size, rows = cfg.SOLVER.IMS_PER_BATCH, []
    for name, value in found.items():
        ratio = found["step"] / value
        print(f"{name:16} {size / value:10.0f} images/s   {ratio:8.1f} x the model's step")
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
