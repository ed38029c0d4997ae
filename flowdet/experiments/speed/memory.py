"""Peak memory of a training, each setting in a process of its own (Table 1, Figure 3).

On a CPU it is the peak of the resident memory, which contains the libraries, the model, the
optimizer and everything that a step allocates. On a GPU it is the peak of PyTorch's allocator.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage

from flowdet.engine import keep_freed_memory
from flowdet.experiments.memory import with_method
from flowdet.experiments.speed.setup import bench_config, single
from flowdet.experiments.speed.training import training_call

# The second step allocates while the optimizer has its state; a third adds nothing.
STEPS = 2
# what the processes have loaded when they start; this takes most of the time of a small setting
PRELOADED = [__name__]


def in_own_process(function: Callable, *args):
    """Calls a function in a new process and returns its result.

    The process is forked from one that has loaded `PRELOADED` and done nothing else.

    Raises:
        MemoryError: the process was killed, usually because memory ran out.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(function, *args).result()
    except BrokenProcessPool as error:
        raise MemoryError("the measuring process was killed, usually by lack of memory") from error


def peak_bytes() -> dict[str, int]:
    """Returns the peak memory of this process so far, by the metric of a row."""
    if torch.cuda.is_available():
        return {"peak_allocated_bytes": torch.cuda.max_memory_allocated()}
    return {"peak_resident_bytes": _peak_resident_bytes()}


def _peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count the process that this one was forked from
        line = next(
            x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_peak(
    config: str, overrides: Sequence[str], method: str, num_blocks: int, batch_size: int
) -> dict[str, int]:
    """Takes training steps and returns the peak memory of this process, see `peak_bytes`.

    Args:
        config, overrides: see `bench_config`.
        method: a key of `MEMORY_METHODS`.
        num_blocks: the number of blocks T.
        batch_size: images per step.
    """
    cfg = with_method(bench_config(config, overrides), method, num_blocks)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    step = training_call(cfg, batch_size)
    with EventStorage():
        for _ in range(STEPS):
            step()
    return peak_bytes()


def memory_rows(
    config: str,
    overrides: Sequence[str],
    methods: Sequence[str],
    blocks: Sequence[int],
    batch_sizes: Sequence[int],
) -> Iterator[dict]:
    """Measures every method with every number of blocks and every batch size, row by row."""
    for size, method, count in product(batch_sizes, methods, blocks):
        peaks = in_own_process(training_peak, config, list(overrides), method, count, size)
        columns = {"part": "memory", "config": config, "method": method}
        columns |= {"num_blocks": count, "batch_size": size}
        for metric, value in peaks.items():
            yield columns | {"metric": metric} | single(value)
