#!/usr/bin/env python
"""Measures what the check for losses and gradients that are not finite adds to a training step.

    benchmarks/step_check.py
    benchmarks/step_check.py --config-file voc_flow_r50.yaml --steps 100 SOLVER.IMS_PER_BATCH 8

Steps with and without the check alternate in one training, so that both see the same load of the
machine. The command prints the median seconds of both and their ratio. Without `--config-file` it
trains the detector and the classifier of the digits. `KEY VALUE` pairs override the config.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors

# isort: split
import torch
from detectron2.utils.events import EventStorage
from tabulate import tabulate

from flowdet.config.config_files import config_path
from flowdet.data.detection.builtin import register_digits
from flowdet.data.detection.digits import make_digits
from flowdet.engine import Trainer, load_config, resolve_config

CONFIGS = ["digits_flow.yaml", "cls/digits_flow_vit.yaml"]
WARM_UP = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", action="append", metavar="FILE", help="config; several are allowed")
    add("--steps", type=at_least_one, default=60, metavar="N", help="steps of each kind")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    return parse_with_overrides(parser, None)


def step_seconds(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Returns the median seconds of a step with the check and without it."""
    check, model, loop = trainer._check, trainer._plain_model, trainer._trainer
    hooks = [
        model._forward_pre_hooks,
        model._forward_hooks,
        trainer.optimizer._optimizer_step_pre_hooks,
    ]
    saved = [dict(x) for x in hooks]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with EventStorage() as trainer.storage:
        for trainer.iter in range(WARM_UP + 2 * steps):
            is_checked = trainer.iter % 2 == 0
            for hook, functions in zip(hooks, saved, strict=True):
                hook.clear()
                hook.update(functions if is_checked else {})
            loop._hooks = [check] if is_checked else []
            start = time.perf_counter()
            trainer.run_step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if trainer.iter >= WARM_UP:
                seconds[is_checked].append(time.perf_counter() - start)
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def main() -> None:
    args = parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="step_check_") as folder, user_errors():
        if not args.config_file:
            make_digits(Path(folder) / "digits", num_train=64, num_test=4)
            register_digits(folder)
        for name in args.config_file or CONFIGS:
            cfg = load_config(config_path(name), [*args.opts, "OUTPUT_DIR", folder])
            with_check, without = step_seconds(Trainer(resolve_config(cfg)), args.steps)
            rows.append([name, with_check, without, with_check / without])
    print(tabulate(rows, ["config", "s with check", "s without", "ratio"], floatfmt=".4f"))


if __name__ == "__main__":
    main()
