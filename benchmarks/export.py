#!/usr/bin/env python
"""Time of exported files against the model that they were made from.

    benchmarks/export.py --config-file output/digits_demo/config.yaml \\
        --weights output/digits_demo/model_final.pth --files detector.onnx detector.pt2

The files are those of tools/export.py, of this config and these weights. All run in turn on the
same random images, on the CPU, in as many threads (OMP_NUM_THREADS); `speed-up` is the model's
median time divided by the file's.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors
from flowdet.engine import keep_freed_memory
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.export import FORMATS
from flowdet.export.formats import Runner
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor
from flowdet.inference.settings import inference_config
from flowdet.reporting.results import changed_keys, method_of, typed_command, write_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, help="of the model")
    add("--weights", help="checkpoint of a training (default: MODEL.WEIGHTS of the config)")
    add("--files", nargs="+", type=Path, required=True, help="exported from it")
    add("--batch-sizes", nargs="+", type=at_least_one, default=[1, 8], metavar="B")
    add("--rounds", type=at_least_one, default=30, help="how often each runs")
    add("--output", type=Path, help="a JSON for the speed-ups")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parse_with_overrides(parser, None)


def open_file(path: Path) -> Runner:
    """An exported file as a function; ValueError or OSError if it is none."""
    kinds = {file.suffix: file for file in FORMATS.values()}
    if path.suffix not in kinds:
        raise ValueError(f"--files: {path} must end in {' or '.join(kinds)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no exported file {path}")
    return kinds[path.suffix].open(path)


@torch.no_grad()
def seconds(ways: dict, rounds: int) -> dict[str, float]:
    """Median time of each of the ways, functions without arguments, that run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    # the first two warm up
    return {name: float(np.median(times[2:])) for name, times in taken.items()}


def rows_of(cfg: CfgNode, table: list[list]) -> list[dict]:
    """Speed-ups of the files, in the form of result files."""
    common = {"method": method_of(cfg), "metric": "speed_up", "std": None, "n": 1}
    common["threads"] = torch.get_num_threads()
    return [
        {**common, "file": Path(name).suffix, "batch": batch, "mean": round(speed_up, 2)}
        for name, batch, _, speed_up in table
        if name != "model"
    ]


def main() -> None:
    args = parse_args()
    keep_freed_memory()
    with user_errors():
        cfg = inference_config(args.config_file, args.opts, device="cpu")
        classifies = task_of(cfg) is CLASSIFICATION
        model = (ClassPredictor if classifies else Predictor)(cfg, args.weights).model
        eager = partial(model.inference, all_modes=False) if classifies else model.inference
        files = {path.name: open_file(path) for path in args.files}
    table = []
    for batch in args.batch_sizes:
        images = torch.randint(0, 256, (batch, 3, *cfg.INPUT.FIXED_SIZE), dtype=torch.uint8)
        ways = {"model": partial(eager, [{"image": image} for image in images])}
        ways |= {name: partial(run, images, None) for name, run in files.items()}
        found = seconds(ways, args.rounds)
        table += [[name, batch, 1e3 * s / batch, found["model"] / s] for name, s in found.items()]
    print(tabulate(table, ["", "batch", "ms per image", "speed-up"], floatfmt=".2f"))
    if args.output:
        write_results(
            args.output,
            rows_of(cfg, table),
            command=typed_command(),
            config=args.config_file,
            seeds=[cfg.SEED],
            settings=changed_keys(cfg),
        )


if __name__ == "__main__":
    main()
