#!/usr/bin/env python
"""Trains on the digits for thousands of iterations and checks that nothing grows or slows down.

    OMP_NUM_THREADS=1 benchmarks/soak.py --iterations 5000 --output docs/results/soak.json

The command makes its own small dataset and trains a small detector on it, with a loader worker, an
evaluation and a checkpoint every 500 iterations. After the first 500 iterations

- the memory that the process has allocated must grow by less than 2 %,
- the number of open file handles must stay the same (without images on their way from the worker),
- an iteration must take the same time at the end as at the start, within 5 %. This is compared in
  CPU seconds of the process, which depend less on other programs than wall seconds; their ratio
  is reported beside it.

Ends with status 1 if one of them does not hold. `KEY VALUE` pairs override the config. Linux only.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from detectron2.engine import HookBase

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors
from flowdet.data.detection.digits import make_digits
from flowdet.engine import Trainer, keep_freed_memory, load_config, resolve_config
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, write_results

WARM_UP = 500
# iterations at the start and at the end that are compared
WINDOW = 500
MAX_GROWTH_PERCENT = 2.0
MAX_SLOWDOWN_PERCENT = 5.0
CONFIG = "digits_flow"
SETTINGS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.SMALL_RESNET.CHANNELS": [8, 8, 16],
    "MODEL.FLOW_DET.HIDDEN_DIM": 32,
    "MODEL.FLOW_DET.FEEDFORWARD_DIM": 64,
    "MODEL.FLOW_DET.NUM_BLOCKS": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.CHECKPOINT_PERIOD": 500,
    "TEST.EVAL_PERIOD": 500,
    "TEST.SAMPLE_IMAGES": 4,
    "SEED": 0,
}


class Sample(NamedTuple):
    """What an iteration cost, and what the process held after it and its evaluation.

    Attributes:
        wall, cpu: seconds of the iteration, without evaluation and checkpoint.
        memory: memory of the process in MiB, see `own_mib`.
        workers: the same of the loader workers.
        handles: number of open file handles.
    """

    wall: float
    cpu: float
    memory: float
    workers: float
    handles: int


class SoakTrainer(Trainer):
    """Measures the time of every iteration."""

    def run_step(self):
        start = time.perf_counter(), time.process_time()
        super().run_step()
        self.cost = time.perf_counter() - start[0], time.process_time() - start[1]


class Watch(HookBase):
    """Takes a sample after every iteration, and prints one every 500 iterations."""

    def __init__(self):
        self.samples: list[Sample] = []

    def after_step(self):
        workers = [child.pid for child in multiprocessing.active_children()]
        sample = Sample(
            *self.trainer.cost,
            own_mib(os.getpid()),
            sum(own_mib(pid) for pid in workers),
            open_handles(),
        )
        self.samples.append(sample)
        if len(self.samples) % WINDOW == 0:
            print(
                f"{len(self.samples)} iterations: {sample.memory:.1f} MiB, workers "
                f"{sample.workers:.1f} MiB, {sample.handles} handles, "
                f"{1000 * statistics.mean(s.cpu for s in self.samples[-WINDOW:]):.1f} ms CPU per "
                "iteration",
                flush=True,
            )


def open_handles() -> int:
    """Returns the number of open file handles, without the images that the loader is passing on.

    A loader worker passes tensors in shared memory: their number depends on how far it is ahead.
    """
    count = 0
    for name in os.listdir("/proc/self/fd"):
        # the listing itself, and what another thread closes meanwhile, are gone
        with contextlib.suppress(FileNotFoundError):
            file = os.readlink(os.path.join("/proc/self/fd", name))
            count += not file.startswith("/dev/shm/torch_")
    return count


def own_mib(pid: int) -> float:
    """Returns the memory that a process has allocated, in MiB, in RAM or swapped out.

    The mapped files, such as torch's libraries, are left out: the system drops and reads them again
    as it likes. Returns 0 if the process has just ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    kib = {
        name: value.split()[0]
        for name, value in (line.split(":", 1) for line in lines)
        if value.strip()
    }
    return (int(kib.get("RssAnon", 0)) + int(kib.get("VmSwap", 0))) / 1024


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--iterations", type=at_least_one, default=5000, help="default: 5000")
    add("--output", type=Path, metavar="FILE", help="JSON file for the results")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parse_with_overrides(parser, None)
    if args.iterations < WARM_UP + 2 * WINDOW:
        parser.error(f"--iterations must be at least {WARM_UP + 2 * WINDOW}")
    return args


def soak(args: argparse.Namespace, folder: Path) -> tuple[list[Sample], dict]:
    """Trains in a folder; returns the samples and the changed keys of the config."""
    make_digits(folder / "digits", num_train=64, num_test=8)
    settings = SETTINGS | {
        "DATASETS.PATH": repr(str(folder / "digits")),
        "SOLVER.MAX_ITER": args.iterations,
    }
    words = [x for pair in settings.items() for x in pair]
    cfg = load_config(CONFIG, [*words, *args.opts])
    cfg.OUTPUT_DIR = str(folder / "run")
    os.makedirs(cfg.OUTPUT_DIR)
    resolve_config(cfg)
    keep_freed_memory()
    trainer, watch = SoakTrainer(cfg), Watch()
    trainer.register_hooks([watch])
    trainer.resume_or_load(resume=False)
    trainer.train()
    keys = changed_keys(cfg)
    # the temporary folder
    del keys["DATASETS.PATH"]
    return watch.samples, keys


def summary(samples: list[Sample]) -> list[dict]:
    """Compares the first iterations after the warm-up with the last ones; one row per metric."""
    first, last = samples[WARM_UP : WARM_UP + WINDOW], samples[-WINDOW:]

    def row(metric: str, value: float, limit: float | None = None) -> dict:
        checked = {} if limit is None else {"limit": limit, "holds": abs(value) <= limit}
        return {"metric": metric, "value": round(value, 3)} | checked

    def medians(name: str) -> tuple[float, float]:
        return tuple(statistics.median(getattr(s, name) for s in part) for part in (first, last))

    memory, workers = medians("memory"), medians("workers")
    cpu = [statistics.mean(s.cpu for s in part) for part in (first, last)]
    wall = medians("wall")
    handles = {s.handles for s in samples[WARM_UP:]}
    return [
        # less memory at the end is no fault
        row(
            "memory growth, percent", max(0, 100 * (memory[1] / memory[0] - 1)), MAX_GROWTH_PERCENT
        ),
        row("memory at the start, MiB", memory[0]),
        row("memory at the end, MiB", memory[1]),
        row("memory of workers at the start, MiB", workers[0]),
        row("memory of workers at the end, MiB", workers[1]),
        row("open handles, largest difference", max(handles) - min(handles), 0),
        row("open handles", samples[-1].handles),
        row(
            "CPU time per iteration, change in percent",
            100 * (cpu[1] / cpu[0] - 1),
            MAX_SLOWDOWN_PERCENT,
        ),
        row("wall time per iteration, change in percent", 100 * (wall[1] / wall[0] - 1)),
        row("CPU time per iteration at the end, ms", 1000 * cpu[1]),
        row("iterations", len(samples)),
    ]


def curve(samples: list[Sample]) -> list[dict]:
    """Returns one row for every 500 iterations, with the medians over them."""
    rows = []
    for end in range(WINDOW, len(samples) + 1, WINDOW):
        part = [statistics.median(column) for column in zip(*samples[end - WINDOW : end])]
        values = dict(zip(Sample._fields, (round(x, 4) for x in part)))
        rows.append({"metric": "medians over 500 iterations", "until_iteration": end} | values)
    return rows


def main() -> int:
    args = parse_args()
    with user_errors(), tempfile.TemporaryDirectory(prefix="soak_") as folder:
        samples, keys = soak(args, Path(folder))
    rows = summary(samples)
    for row in rows:
        verdict = (
            f" (limit {row['limit']:g}: {'holds' if row['holds'] else 'BROKEN'})"
            if "limit" in row
            else ""
        )
        print(f"{row['metric']}: {row['value']:g}{verdict}")
    if args.output:
        write_results(
            args.output,
            rows + curve(samples),
            command=typed_command(),
            config=CONFIG,
            seeds=[0],
            settings=keys,
        )
    return 0 if all(row.get("holds", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
