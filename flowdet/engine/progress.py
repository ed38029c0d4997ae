"""Progress on a terminal: the live line of a training, and bars of long loops.

Without a terminal (a file, a pipe, a notebook) nothing of this is shown, and the log lines of
detectron2 are printed as usual. Log files never contain a bar.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# the loggers with a handler for the terminal, see `flowdet.cli.train.setup`
_LOGGERS = ("detectron2", "flowdet", "fvcore")
# loggers whose lines repeat what a bar shows, and how these lines start
_REPLACED = {"detectron2.utils.events": "", "detectron2.evaluation.evaluator": "Inference done "}
# seconds between two updates of the live line
_PERIOD = 0.25
# iterations over which values are smoothed, as in detectron2's log lines
_WINDOW = 20
_LINE = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"


def on_terminal() -> bool:
    """Whether this is the main process and its standard output is a terminal."""
    return comm.is_main_process() and sys.stdout.isatty()


class LoaderWithBar:
    """A data loader that shows a bar while it is iterated over.

    Its length and its attributes are those of the loader.

    Args:
        loader: the loader; it has a length.
        description: the text before the bar.
    """

    def __init__(self, loader: Iterable, description: str):
        self._loader = loader
        self._description = description

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        return iter(terminal_bar(self._loader, desc=self._description, unit="batch"))

    def __getattr__(self, name: str):
        return getattr(self._loader, name)


def terminal_bar(iterable: Iterable | None = None, **options) -> tqdm:
    """Returns a tqdm bar on standard output, which is removed at its end.

    It is disabled without a terminal and in all processes but the main one.
    """
    defaults = {"file": sys.stdout, "leave": False, "dynamic_ncols": True}
    return tqdm(iterable, **defaults | options, disable=not on_terminal())


@contextmanager
def log_above_bars() -> Iterator[None]:
    """On a terminal, log lines are printed above the bars, without those that a bar replaces.

    Handlers of log files stay as they are.
    """
    if not on_terminal():
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    # tqdm adds a handler to a logger that has none for the terminal
    loggers = [logger for logger in loggers if any(map(_is_terminal, logger.handlers))]
    with logging_redirect_tqdm(loggers):
        for logger in loggers:
            for handler in filter(_is_terminal, logger.handlers):
                handler.addFilter(_is_not_replaced)
        yield


def _is_terminal(handler: logging.Handler) -> bool:
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)


def _is_not_replaced(record: logging.LogRecord) -> bool:
    start = _REPLACED.get(record.name)
    return start is None or not record.getMessage().startswith(start)


class LiveLine(HookBase):
    """Shows one line on the terminal that is updated while the model trains.

    It shows the epoch, the images per second, the remaining time without evaluations, the AP of the
    last evaluation, the loss and its part of every block. The line is completed before every
    evaluation, and a new one starts after it. Log lines are printed above it.

    Register the hook before the one that evaluates. Without a terminal it does nothing.

    Args:
        cfg: the resolved config of the training.
    """

    def __init__(self, cfg: CfgNode):
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH
        # 0 if the length of the training is given in iterations
        self.epochs = cfg.SOLVER.MAX_EPOCHS
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
        self._bar.n = done
        self._bar.set_description_str(self._epoch(done), refresh=False)
        self._bar.set_postfix_str(
            status(self.trainer.storage, self.batch_size, self.trainer.max_iter - done),
            refresh=False,
        )
        self._bar.refresh()
        self._shown = time.monotonic()

    def _epoch(self, done: int) -> str:
        if not self.epochs:
            return "training"
        epoch = (done - 1) * self.epochs // self.trainer.max_iter + 1
        return f"epoch {epoch}/{self.epochs}"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def after_train(self):
        self._close()
        self._stack.close()


def status(storage: EventStorage, batch_size: int, remaining: int) -> str:
    """Formats speed, remaining time, AP and losses, such as "52.1 images/s, ETA 0:05:12, AP 45.2,
    loss 2.31 (blocks 1.20 1.11)"; what is not known yet is left out.

    The most important parts come first, because a narrow terminal shows only the start of the line.

    Args:
        storage: the event storage of the training.
        batch_size: images per iteration.
        remaining: the number of iterations to come.
    """
    parts = []
    names = storage.histories()
    if "time" in names:
        parts.append(f"{batch_size / names['time'].median(_WINDOW):.3g} images/s")
        seconds = names["time"].median(1000) * remaining
        parts.append(f"ETA {timedelta(seconds=int(seconds))}")
    parts += _accuracy(storage)
    if "total_loss" in names:
        blocks = " ".join(f"{x:.3g}" for x in _block_losses(storage))
        of_blocks = f" (blocks {blocks})" if blocks else ""
        parts.append(f"loss {_smoothed(storage, 'total_loss'):.3g}{of_blocks}")
    return ", ".join(parts)


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
