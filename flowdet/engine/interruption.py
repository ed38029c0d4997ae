"""Ctrl-C and SIGTERM in a training: it ends after the iteration, with a checkpoint of it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from tqdm import tqdm

from flowdet.engine.checkpoint_files import damage
from flowdet.engine.weight_files import last_checkpoint_name
from flowdet.stop_signals import handled_signals, note_stop_signal, stop_name


class StopAtInterrupt(HookBase):
    """Ends a training at Ctrl-C (SIGINT) in a state from which it can be resumed exactly.

    In a command that `stop_signals` surrounds, SIGTERM and SIGHUP do the same.

    During an iteration, the first Ctrl-C lets it finish, and the training then ends with a
    checkpoint of it and a KeyboardInterrupt. Everywhere else, such as in an evaluation, and at the
    second Ctrl-C, the KeyboardInterrupt is raised at once; after a finished iteration there is a
    checkpoint as well.

    With several processes, which would not all stop after the same iteration, Ctrl-C interrupts
    at once, and the last periodic checkpoint is the one to resume from.

    Register the hook after those that change the state of the training (scheduler, average), and
    before those that save and evaluate it.

    Args:
        checkpoint_period: `SOLVER.CHECKPOINT_PERIOD`, in iterations.

    Attributes:
        interrupted: whether there was a Ctrl-C or another of these signals.
    """

    def __init__(self, checkpoint_period: int):
        self.checkpoint_period = checkpoint_period
        self.interrupted = False
        self._in_iteration = False
        self._finished: int | None = None
        self._process = os.getpid()
        self._handlers: dict[int, object] = {}
        self._received: set[int] = set()

    def before_train(self):
        # only the main thread can have a signal handler
        is_main_thread = threading.current_thread() is threading.main_thread()
        if comm.get_world_size() == 1 and is_main_thread:
            for number in handled_signals():
                self._handlers[number] = signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, _) -> None:
        if os.getpid() != self._process:
            # a process that loads data: it has to finish the images of the current iteration
            return
        # the commands that train several runs send SIGTERM after Ctrl-C, which is no second Ctrl-C
        again = number in self._received
        self._received.add(number)
        self.interrupted = True
        note_stop_signal(number)
        if again or not self._in_iteration:
            raise KeyboardInterrupt
        message = f"{stop_name()}: stopping after this iteration; the next one stops at once"
        # the terminal may be closed, or a line is being written to it
        with contextlib.suppress(OSError, RuntimeError):
            tqdm.write(message, file=sys.stderr)

    def before_step(self):
        self._in_iteration = True

    def after_step(self):
        self._in_iteration = False
        self._finished = self.trainer.iter
        # after the last iteration, the final checkpoint is saved first
        if self.interrupted and self._finished + 1 < self.trainer.max_iter:
            raise KeyboardInterrupt

    def after_train(self):
        if not self._handlers:
            return
        if self.interrupted:
            # a checkpoint is written completely, however often Ctrl-C is pressed
            for number in self._handlers:
                signal.signal(number, signal.SIG_IGN)
            self._save()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.interrupted and self.trainer.iter + 1 >= self.trainer.max_iter:
            # instead of the last evaluation
            raise KeyboardInterrupt

    def _save(self) -> None:
        """Saves the last finished iteration under the name of a periodic checkpoint of it."""
        last = self._finished
        done = "before the first iteration" if last is None else f"after iteration {last}"
        logging.getLogger(__name__).info("The training is stopped by %s %s", stop_name(), done)
        if last is None or self._in_iteration:
            return
        checkpointer, name = self.trainer.checkpointer, f"model_{last:07d}"
        is_periodic = (last + 1) % self.checkpoint_period == 0
        # the signal may have come while the periodic checkpoint, or its name, was written
        path = Path(checkpointer.save_dir, f"{name}.pth")
        is_saved = is_periodic and last_checkpoint_name(path.parent) == path.name
        is_saved = is_saved and not damage(path)
        if not is_saved and self.trainer.iter != self.trainer.max_iter:
            checkpointer.save(name, iteration=last)
