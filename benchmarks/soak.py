#!/usr/bin/env python
"""Trains on the digits for thousands of iterations and checks that nothing grows or slows down.

    OMP_NUM_THREADS=1 benchmarks/soak.py --iterations 5000 --output docs/results/soak.json

The command makes its own small dataset and trains a small detector on it, with a loader worker, an
evaluation and a checkpoint every 500 iterations. After the first 500 iterations

- the memory that the process has allocated must grow by less than 2 %,
- the number of open file handles must stay the same. A handle that leaks stays open, so the median
  over every 10 iterations is compared: TensorBoard's thread opens the event file for a moment every
  20 iterations. Images on their way from the worker, whose number depends on how far it is ahead,
  are counted separately,
- an iteration must take the same time at the end as at the start, within 5 %. This is compared in
  CPU time, relative to that of a fixed computation: after each iteration, a second process makes a
  step of the same model, always with the same weights and images. So a machine that becomes slower
  or faster meanwhile changes both, and a training that becomes slower changes only one. The change
  in CPU time and in wall time alone is reported beside it.

Ends with status 1 if one of them does not hold. `KEY VALUE` pairs override the config. Linux only.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from flowdet.cli.common import at_least_one, parse_with_overrides, user_errors
from flowdet.data.detection.digits import make_digits
from flowdet.engine import Trainer, keep_freed_memory, load_config, resolve_config
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import changed_keys, write_results

WARM_UP = 500
# iterations at the start and at the end that are compared
WINDOW = 500
# iterations over which the number of handles is averaged
BLOCK = 10
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
        handles: number of open file handles, without those of `images`.
        images: number of open handles of images that the loader worker has passed on.
        fixed: CPU seconds of the fixed computation after the iteration.
    """

    wall: float
    cpu: float
    memory: float
    workers: float
    handles: int
    images: int
    fixed: float


class FixedSteps:
    """A process that makes the same training steps whenever it is asked, and times them.

    It is a process of its own, so that what a long training leaves behind cannot slow it down.

    Args:
        words: overrides of the config `CONFIG`, as it was when the training began.
    """

    def __init__(self, words: Sequence):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self.process = context.Process(target=make_fixed_steps, args=(other, words), daemon=True)
        self.process.start()
        other.close()
        # ready, and warm
        self.seconds()

    def seconds(self) -> float:
        """Returns the CPU seconds of a step."""
        self._pipe.send(True)
        return self._pipe.recv()

    def close(self) -> None:
        # a closed pipe would not be enough: loader workers have a copy of it
        self._pipe.send(False)
        self.process.join()


def make_fixed_steps(pipe: Connection, words: Sequence) -> None:
    """Sends the CPU seconds of a step for every True that it gets, and ends at False."""
    torch.set_num_threads(1)
    cfg = load_config(CONFIG, [*words, "DATALOADER.NUM_WORKERS", 0])
    resolve_config(cfg)
    keep_freed_memory()
    logging.disable(logging.INFO)
    model = Trainer.build_model(cfg).train()
    batch = next(iter(Trainer.build_train_loader(cfg)))
    with EventStorage():
        while pipe.recv():
            start = time.process_time()
            torch.manual_seed(0)
            model.zero_grad()
            sum(model(batch).values()).backward()
            pipe.send(time.process_time() - start)


class SoakTrainer(Trainer):
    """Measures the time of every iteration."""

    def run_step(self):
        start = time.perf_counter(), time.process_time()
        super().run_step()
        self.cost = time.perf_counter() - start[0], time.process_time() - start[1]


class Watch(HookBase):
    """Takes a sample after every iteration, and prints one every 500 iterations."""

    def __init__(self, fixed_steps: FixedSteps):
        # plain numbers, so that what is measured does not grow by what is recorded
        self._values = array("d")
        self._fixed_steps = fixed_steps

    @property
    def samples(self) -> list[Sample]:
        size = len(Sample._fields)
        return [Sample(*self._values[i : i + size]) for i in range(0, len(self._values), size)]

    def after_step(self):
        children = multiprocessing.active_children()
        workers = [child.pid for child in children if child != self._fixed_steps.process]
        sample = Sample(
            *self.trainer.cost,
            own_mib(os.getpid()),
            sum(own_mib(pid) for pid in workers),
            *open_handles(),
            self._fixed_steps.seconds(),
        )
        self._values.extend(sample)
        if len(self._values) % (WINDOW * len(sample)) == 0:
            print(
                f"{self.trainer.iter + 1} iterations: {sample.memory:.1f} MiB, workers "
                f"{sample.workers:.1f} MiB, {sample.handles} handles",
                flush=True,
            )


def open_handles() -> tuple[int, int]:
    """Returns the number of open file handles, and that of images, which a loader worker passes on
    as tensors in shared memory."""
    files = []
    for name in os.listdir("/proc/self/fd"):
        # the listing itself, and what another thread closes meanwhile, are gone
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(os.path.join("/proc/self/fd", name)))
    images = sum(file.startswith("/dev/shm/torch_") for file in files)
    return len(files) - images, images


def own_mib(pid: int) -> float:
    """Returns the memory that a process has allocated, in MiB, in RAM or swapped out.

    The mapped files, such as torch's libraries, are left out: the system drops and reads them again
    as it likes. Returns 0 if the process has just ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
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
    fixed_steps = FixedSteps([*words, *args.opts])
    trainer, watch = SoakTrainer(cfg), Watch(fixed_steps)
    trainer.register_hooks([watch])
    trainer.resume_or_load(resume=False)
    trainer.train()
    fixed_steps.close()
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
    relative = [relative_time(part) for part in (first, last)]
    wall = medians("wall")
    blocks = [samples[i : i + BLOCK] for i in range(WARM_UP, len(samples), BLOCK)]
    handles = [statistics.median(s.handles for s in block) for block in blocks]
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
        row("open handles", handles[-1]),
        row("handles of images on their way, most at the start", max(s.images for s in first)),
        row("handles of images on their way, most at the end", max(s.images for s in last)),
        row(
            "CPU time per iteration relative to the fixed step, change in percent",
            100 * (relative[1] / relative[0] - 1),
            MAX_SLOWDOWN_PERCENT,
        ),
        row("CPU time per iteration, change in percent", 100 * (cpu[1] / cpu[0] - 1)),
        row("wall time per iteration, change in percent", 100 * (wall[1] / wall[0] - 1)),
        row("CPU time per iteration at the end, ms", 1000 * cpu[1]),
        row("iterations", len(samples)),
    ]


def relative_time(samples: list[Sample]) -> float:
    """Returns the median CPU time of an iteration, in fixed computations after it."""
    return statistics.median(s.cpu / s.fixed for s in samples)


def curve(samples: list[Sample]) -> list[dict]:
    """Returns one row for every 500 iterations, with the medians over them."""
    rows = []
    for end in range(WINDOW, len(samples) + 1, WINDOW):
        part = samples[end - WINDOW : end]
        values = dict(zip(Sample._fields, map(statistics.median, zip(*part))))
        values = {k: round(x, 4) for k, x in (values | {"relative": relative_time(part)}).items()}
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
