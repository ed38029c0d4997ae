"""The live line of a training on a terminal."""

from __future__ import annotations

import math
import re
import time
from contextlib import ExitStack
from datetime import timedelta
from enum import Enum

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from flowdet.engine.task_builders import task_of
from flowdet.terminal import log_above_bars, terminal_bar

# seconds between two updates of the live line
_PERIOD = 0.25
# iterations over which values are smoothed, as in detectron2's log lines
_WINDOW = 20
_LINE = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"
# the same for narrow terminals
_SHORT_LINE = "{desc} {percentage:.0f}%{postfix}"


class LiveLine(HookBase):
    """Shows one line on the terminal that is updated while the model trains.

    It shows the epoch, the images per second, the remaining time without evaluations, the AP of the
    last evaluation, the loss and its part of every block. A line that is too long for the terminal
    is shortened. The line is completed before every evaluation, and a new one starts after it. Log
    lines are printed above it.

    Register the hook before the one that evaluates. Without a terminal it does nothing.

    Args:
        cfg: the resolved config of the training.
    """

    def __init__(self, cfg: CfgNode):
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH
        # 0 if the length of the training is given in iterations
        self.epochs = cfg.SOLVER.MAX_EPOCHS
        # 0 in a config that was not resolved
        self.epoch_length = task_of(cfg).keys(cfg).ITERS_PER_EPOCH
        self.eval_period = cfg.TEST.EVAL_PERIOD
        self._stack = ExitStack()
        self._bar: tqdm | None = None
        self._shown = 0.0

    def before_train(self):
        self._stack.enter_context(log_above_bars())

    def before_step(self):
        if self._bar is None:
            self._bar = terminal_bar(
                total=self.trainer.max_iter,
                initial=self.trainer.iter,
                bar_format=_LINE,
                leave=True,
            )

    def after_step(self):
        done = self.trainer.iter + 1
        evaluates = self.eval_period > 0 and done % self.eval_period == 0
        if evaluates or done == self.trainer.max_iter:
            self._update(done)
            self._close()
        elif time.monotonic() - self._shown >= _PERIOD:
            self._update(done)

    def _update(self, done: int) -> None:
        if self._bar.disable:
            return
        bar, remaining = self._bar, self.trainer.max_iter - done
        bar.n = done
        bar.set_description_str(self._epoch(done), refresh=False)
        for length in Length:
            bar.bar_format = _LINE if length is Length.FULL else _SHORT_LINE
            text = status(self.trainer.storage, self.batch_size, remaining, length)
            bar.set_postfix_str(text, refresh=False)
            values = bar.format_dict
            if len(tqdm.format_meter(**values | {"ncols": None})) <= (values["ncols"] or math.inf):
                break
        bar.refresh()
        self._shown = time.monotonic()

    def _epoch(self, done: int) -> str:
        last = self.trainer.max_iter
        if self.epochs:
            return f"epoch {(done - 1) * self.epochs // last + 1}/{self.epochs}"
        if self.epoch_length:
            epoch, epochs = (math.ceil(n / self.epoch_length) for n in (done, last))
            return f"epoch {epoch}/{epochs}"
        return "training"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def after_train(self):
        self._close()
        self._stack.close()


class Length(Enum):
    """Lengths of the line, the longest one first: all losses with three digits, with two, those of
    the blocks without their sum, or only those of the first and the last block."""

    FULL = 4
    SHORT = 3
    BLOCKS = 2
    SHORTEST = 1


def status(
    storage: EventStorage, batch_size: int, remaining: int, length: Length = Length.FULL
) -> str:
    """Formats speed, remaining time, AP and losses, such as "52.1 images/s, ETA 0:05:12, AP 45.2,
    loss 2.31 (blocks 1.20 1.11)", or shorter "52.1 img/s, ETA 0:05:12, AP 45.2, loss 2.31 (1.2
    1.1)" or "..., AP 45.2, losses 1.2 1.1"; what is not known yet is left out.

    The most important parts come first, because a very narrow terminal shows only the start of the
    line.

    Args:
        storage: the event storage of the training.
        batch_size: images per iteration.
        remaining: the number of iterations to come.
        length: how much is shown.
    """
    parts = []
    names = storage.histories()
    if "time" in names:
        unit = "images/s" if length is Length.FULL else "img/s"
        parts.append(f"{batch_size / names['time'].median(_WINDOW):.3g} {unit}")
        seconds = names["time"].median(1000) * remaining
        parts.append(f"ETA {timedelta(seconds=int(seconds))}")
    parts += _accuracy(storage)
    if "total_loss" in names:
        parts.append(_loss_text(_smoothed(storage, "total_loss"), _block_losses(storage), length))
    return ", ".join(parts)


def _loss_text(total: float, blocks: list[float], length: Length) -> str:
    if not blocks:
        return f"loss {total:.3g}"
    if length is Length.FULL:
        return f"loss {total:.3g} (blocks {' '.join(f'{x:.3g}' for x in blocks)})"
    values = [f"{x:.2g}" for x in blocks]
    if length is Length.BLOCKS:
        return f"losses {' '.join(values)}"
    if length is Length.SHORTEST and len(values) > 2:
        values = [values[0], "...", values[-1]]
    return f"loss {total:.3g} ({' '.join(values)})"


def _accuracy(storage: EventStorage) -> list[str]:
    """Returns the AP, or the accuracy of a classifier, of the last evaluation; with several
    datasets of the first one."""
    for name, (value, _) in storage.latest().items():
        if re.search(r"(^|/)bbox/AP$", name):
            return [f"AP {value:.1f}"]
        if re.search(r"(^|/)classification/top1$", name):
            return [f"top-1 {value:.1f}"]
    return []


def _block_losses(storage: EventStorage) -> list[float]:
    """Returns the loss of every block: the sum of the terms that the model also returns."""
    names = storage.histories()
    terms = [name.removeprefix("loss_") for name in names if name.startswith("loss_")]
    losses = []
    while values := [x for x in (f"block{len(losses)}/{term}" for term in terms) if x in names]:
        losses.append(sum(_smoothed(storage, name) for name in values))
    return losses


def _smoothed(storage: EventStorage, name: str) -> float:
    return storage.history(name).median(storage.count_samples(name, _WINDOW))
