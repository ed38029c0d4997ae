"""Hooks that evaluate a training and write its metrics, so that a stop loses none of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from flowdet.engine.metrics_file import EVALUATION_KEY, MetricsWriter, has_evaluation


class Evaluation(EvalHook):
    """Evaluates the model, and logs how long that takes as `evaluation_seconds`.

    A resumed training begins with the evaluation that was due after the checkpoint, if the stop
    was before its end.

    Args:
        period: iterations between two evaluations; 0 for one after the training.
        evaluate: returns the metrics.
        folder: the folder of the run.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], folder: str):
        super().__init__(period, evaluate)
        self._folder = folder

    def before_train(self):
        start = self.trainer.start_iter
        due = self._period > 0 and start > 0 and start % self._period == 0
        if not due or start >= self.trainer.max_iter:
            return
        # the last evaluation of a training that is now continued is recorded one iteration later
        if comm.all_gather(has_evaluation(self._folder, (start - 1, start)))[0]:
            return
        self.trainer.storage.iter = start - 1
        self._do_eval()
        self.trainer.storage.iter = start

    def _do_eval(self):
        start = time.perf_counter()
        super()._do_eval()
        seconds = time.perf_counter() - start
        self.trainer.storage.put_scalar(EVALUATION_KEY, seconds, smoothing_hint=False)


class WriteBeforeCheckpoint(HookBase):
    """Writes the metrics of an iteration before its checkpoint. Register it directly before it.

    Args:
        period: iterations between two checkpoints.
        writer: writes `metrics.json`.
    """

    def __init__(self, period: int, writer: MetricsWriter):
        self._period = period
        self._writer = writer

    def after_step(self):
        following = self.trainer.iter + 1
        if following % self._period == 0 or following >= self.trainer.max_iter:
            self._writer.write()


class WriteAfterEvaluation(PeriodicWriter):
    """detectron2's hook, which also writes after every evaluation.

    Args:
        writers: called every 20 iterations, after evaluations and after the last iteration.
        evaluation_period: iterations between two evaluations.
    """

    def __init__(self, writers: Sequence[EventWriter], evaluation_period: int):
        super().__init__(writers, period=20)
        self._evaluation_period = evaluation_period

    def after_step(self):
        following = self.trainer.iter + 1
        period = self._evaluation_period
        is_last = following == self.trainer.max_iter
        if following % self._period == 0 or is_last or (period > 0 and following % period == 0):
            for writer in self._writers:
                writer.write()
