#!/usr/bin/env python
"""Compares the inference time of exported files with that of the PyTorch model.

    benchmarks/export.py --config-file output/digits_demo/config.yaml \\
        --weights output/digits_demo/model_final.pth --files detector.onnx detector.pt2

The files must have been exported from this config and these weights with tools/export.py. Model and
files run in turn on the same random images, on the CPU, with the same number of threads
(OMP_NUM_THREADS). `speed-up` is the median time of the model divided by that of the file. `KEY
VALUE` pairs override the config.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors

# isort: split
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from flowdet.engine import keep_freed_memory
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.export import FORMATS
from flowdet.export.formats import Runner
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.predictor import Predictor
from flowdet.inference.settings import inference_config
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, method_of, write_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, help="config of the model")
    add("--weights", help="checkpoint of a training (default: MODEL.WEIGHTS of the config)")
    add("--files", nargs="+", type=Path, required=True, help="files exported from this model")
    sizes = "images per call (default: 1 8)"
    add("--batch-sizes", nargs="+", type=at_least_one, default=[1, 8], metavar="B", help=sizes)
    add("--rounds", type=at_least_one, default=30, help="measurements (default: 30)")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, None)


def open_file(path: Path, size: Sequence[int]) -> Runner:
    """Opens an exported file, and runs it once.

    Args:
        path: the file.
        size: height and width of the images, in pixels.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no format has the suffix of the file, or it is damaged or of another model.
    """
    kinds = {file.suffix: file for file in FORMATS.values()}
    if path.suffix not in kinds:
        raise ValueError(f"--files: {path} must end in {' or '.join(kinds)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no exported file {path}")
    try:
        run = kinds[path.suffix].open(path)
        run(torch.zeros(1, 3, *size, dtype=torch.uint8), None)
    # torch and ONNX Runtime raise nearly every exception
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"--files: {path} is damaged, or exported from another model ({reason}): export anew"
        ) from error
    return run


@torch.no_grad()
def median_seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median duration of each function; in every round each function runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    # the first two rounds warm up
    return {name: float(np.median(durations[2:])) for name, durations in seconds.items()}


def rows_of(cfg: CfgNode, table: list[list]) -> list[dict]:
    """Computes rows of a result file: the speed-up of each file at each batch size.

    Args:
        cfg: the config of the model.
        table: rows (name, batch size, milliseconds per image, speed-up).
    """
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
        is_classifier = task_of(cfg) is CLASSIFICATION
        model = (ClassPredictor if is_classifier else Predictor)(cfg, args.weights).model
        eager = partial(model.inference, all_modes=False) if is_classifier else model.inference
        size = cfg.INPUT.FIXED_SIZE
        files = {str(path): open_file(path, size) for path in args.files}
    table = []
    for batch in args.batch_sizes:
        images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
        runs = {"model": partial(eager, [{"image": image} for image in images])}
        runs |= {name: partial(run, images, None) for name, run in files.items()}
        seconds = median_seconds(runs, args.rounds)
        table += [
            [name, batch, 1000 * s / batch, seconds["model"] / s] for name, s in seconds.items()
        ]
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
