"""Hooks that log learning rates, speed, memory and previews of the results, e.g. to TensorBoard."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter
from PIL import Image

try:
    import resource
except ImportError:  # not on Windows
    resource = None

MIB = 2**20


class LogLearningRates(HookBase):
    """Logs the learning rates of the backbone and of the rest, `lr/backbone` and `lr/rest`.

    detectron2's `lr` is the rate of the largest group of parameters, which may be either of them.
    """

    def before_train(self):
        names = {id(p): name for name, p in self.trainer.model.named_parameters()}
        self._groups: dict[str, int] = {}
        for i, group in enumerate(self.trainer.optimizer.param_groups):
            for name in (names[id(p)].removeprefix("module.") for p in group["params"]):
                part = "backbone" if name.startswith("backbone.") else "rest"
                self._groups.setdefault(f"lr/{part}", i)

    def before_step(self):
        # before the step, because the scheduler's hook changes them after it
        groups = self.trainer.optimizer.param_groups
        rates = {name: groups[i]["lr"] for name, i in self._groups.items()}
        self.trainer.storage.put_scalars(**rates, smoothing_hint=False)


class ForgetOldScalars(HookBase):
    """Forgets all but the last values of every logged scalar, every `keep` iterations.

    detectron2 keeps the last million values of each, which adds some kilobytes of memory in every
    iteration. The printed and written values are medians over a short window, and the mean over all
    values, which does not need them. The time left is estimated from the last `keep` iterations or
    more.

    Args:
        keep: number of values to keep.
    """

    def __init__(self, keep: int = 100):
        self.keep = keep

    def after_step(self):
        if (self.trainer.iter + 1) % self.keep == 0:
            for history in self.trainer.storage.histories().values():
                del history.values()[: -self.keep]


class LogCost(HookBase):
    """Logs the speed and the peak memory of a training.

    `images_per_second` is logged in every iteration. `images_per_second_mean` is logged after the
    training; it is the mean since the start or the last resume. `peak_memory` describes the memory
    scalars. Register the hook after detectron2's `IterationTimer`.

    Args:
        batch_size: images per iteration, in all processes together.
        device: `MODEL.DEVICE`.
    """

    def __init__(self, batch_size: int, device: str):
        self.batch_size = batch_size
        self.device = device

    def after_step(self):
        storage = self.trainer.storage
        time, iteration = storage.latest().get("time", (0, -1))
        # the timer does not count the first iterations
        if iteration == self.trainer.iter:
            storage.put_scalar("images_per_second", self.batch_size / time)
        storage.put_scalars(**peak_memory(self.device), smoothing_hint=False)

    def after_train(self):
        times = self.trainer.storage.histories().get("time")
        if times is not None:
            mean = self.batch_size / times.global_avg()
            self.trainer.storage.put_scalar("images_per_second_mean", mean, smoothing_hint=False)


def peak_memory(device: str) -> dict[str, float]:
    """Returns the peak memory of this process so far, in MiB, as a scalar by name.

    On a GPU it is `memory/gpu_peak_mib`, the memory that torch allocated. On a CPU it is
    `memory/process_peak_mib`, the resident memory of the process. On Windows, which does not report
    that, the result is empty.
    """
    if device.startswith("cuda"):
        return {"memory/gpu_peak_mib": torch.cuda.max_memory_allocated() / MIB}
    if resource is None:
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # the unit is KiB, on macOS bytes
    return {"memory/process_peak_mib": peak / (MIB if sys.platform == "darwin" else 1024)}


class MetricPrinter(CommonMetricPrinter):
    """detectron2's printer, which would divide by zero if an error ends one of the first iterations
    of a training after they were printed, and hide that error."""

    def _get_eta(self, storage):
        is_printed = self._last_write is not None and self._last_write[0] == storage.iter
        return None if is_printed else super()._get_eta(storage)


class LogPreviews(EvalHook):
    """Logs pictures after every evaluation.

    Args:
        period: iterations between two evaluations.
        draw: returns the pictures by name; called in the main process only.
    """

    def __init__(self, period: int, draw: Callable[[], dict[str, Image.Image]]):
        super().__init__(period, self._log)
        self._draw = draw

    def _log(self) -> None:
        if comm.is_main_process():
            for name, picture in self._draw().items():
                pixels = np.asarray(picture).transpose(2, 0, 1)
                self.trainer.storage.put_image(name, pixels)
            # matplotlib's figures are cycles of references, and the collector rarely looks at all
            # objects: without this, the memory of a long training grows with every evaluation
            gc.collect()

    def after_train(self):
        super().after_train()
        del self._draw
