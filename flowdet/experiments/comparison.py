"""Trains the runs of a comparison under equal budgets, for Tables 1 and 3 (5.1, 5.4)."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from detectron2.config import CfgNode
from tqdm import tqdm

from flowdet.config.user_imports import are_config_files_trusted
from flowdet.engine import load_config, resolve_config
from flowdet.reporting.results import method_of
from flowdet.reporting.runs import check_same_run, read_metrics, training_seconds

# starts a training, both in a checkout and from an installed package
TRAIN_COMMAND = (sys.executable, "-m", "flowdet.cli.train")

_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Budget:
    """The batch size and the number of epochs of a training.

    Fractions of an epoch, as in `8:5.5`, allow methods to be compared at equal training time
    instead of equal epochs.

    Attributes:
        batch_size: images per iteration.
        epochs: number of epochs.
        base_lr: the value of `SOLVER.BASE_LR`; None keeps the learning rate of the config.
    """

    batch_size: int
    epochs: float
    base_lr: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parses a budget of the form `BATCH:EPOCHS` or `BATCH:EPOCHS:LEARNING_RATE`.

        Raises:
            ValueError: the text has another form, or a number is out of range.
        """
        try:
            batch_size, epochs, *lr = text.split(":")
            number = float(epochs)
            number = int(number) if number.is_integer() else number
            budget = cls(int(batch_size), number, *map(float, lr))
        except (ValueError, TypeError):
            budget = None
        if budget is None or not budget._is_valid():
            raise ValueError(
                f"{text!r} is not a budget: use BATCH_SIZE:EPOCHS, or "
                "BATCH_SIZE:EPOCHS:LEARNING_RATE for a learning rate other than the config's, "
                "e.g. 8:6 or 1:1:1.25e-4"
            )
        return budget

    def _is_valid(self) -> bool:
        lr = 1.0 if self.base_lr is None else self.base_lr
        return self.batch_size >= 1 and 0 < self.epochs < math.inf and 0 < lr < math.inf

    def overrides(self) -> list[str]:
        """Returns the overrides of batch size and learning rate, as `KEY VALUE` pairs."""
        keys = {"SOLVER.IMS_PER_BATCH": self.batch_size}
        if self.base_lr is not None:
            keys["SOLVER.BASE_LR"] = self.base_lr
        return [str(word) for pair in keys.items() for word in pair]

    def length_override(self, config_file: str, overrides: Sequence[str]) -> list[str]:
        """Returns the override that sets the number of epochs.

        For a fractional number of epochs it sets the number of iterations instead, which depends on
        the dataset.

        Args:
            config_file: the config file of the training.
            overrides: the other overrides, as `KEY VALUE` pairs.
        """
        whole_epochs = ["SOLVER.MAX_EPOCHS", str(math.ceil(self.epochs))]
        if isinstance(self.epochs, int):
            return whole_epochs
        cfg = resolve_config(load_config(config_file, [*overrides, *whole_epochs]))
        iterations = round(cfg.SOLVER.MAX_ITER * self.epochs / math.ceil(self.epochs))
        return ["SOLVER.MAX_ITER", str(max(iterations, 1))]


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Attributes:
        name: the name of the run; runs that differ only in their seed have the same name.
        config_file: the config file of the training.
        budget: batch size and epochs.
        seed: the value of `SEED`.
        overrides: all overrides of the config file, as `KEY VALUE` pairs.
        cfg: the resolved config with these overrides.
    """

    name: str
    config_file: str
    budget: Budget
    seed: int
    overrides: tuple[str, ...]
    cfg: CfgNode

    @classmethod
    def plan(
        cls,
        config_file: str,
        budget: Budget,
        seed: int,
        output: Path,
        overrides: Sequence[str],
        name: str | None = None,
    ) -> Run:
        """Plans a run whose folder is `output/NAME_seedN`.

        Args:
            config_file: the config file of the training.
            budget: the batch size and the epochs.
            seed: the random seed.
            output: the folder of all runs.
            overrides: `KEY VALUE` pairs, without the keys that the budget and the seed set.
            name: the name of the run; None takes `METHOD_batchN`.

        Raises:
            FileNotFoundError, KeyError, ValueError: from `load_config` and `resolve_config`, e.g.
                for a missing dataset.
        """
        words = [*overrides, *budget.overrides(), "SEED", str(seed)]
        if name is None:
            name = f"{method_of(load_config(config_file, words))}_batch{budget.batch_size}"
        words += ["OUTPUT_DIR", str(output / f"{name}_seed{seed}")]
        words += budget.length_override(config_file, words)
        cfg = resolve_config(load_config(config_file, words))
        # an interrupted run loses at most a quarter of its iterations, however long it is
        period = max(cfg.SOLVER.MAX_ITER // 4, 1)
        words += ["SOLVER.CHECKPOINT_PERIOD", str(period)]
        return cls(name, config_file, budget, seed, tuple(words), cfg)

    @property
    def method(self) -> str:
        """The training method, see `method_of`."""
        return method_of(self.cfg)

    @property
    def folder(self) -> Path:
        """`OUTPUT_DIR`."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def arguments(self) -> list[str]:
        """The arguments of the training command."""
        trust = ["--trust-config"] if are_config_files_trusted() else []
        return ["--config-file", self.config_file, "--resume", *trust, *self.overrides]

    @property
    def images(self) -> int:
        """The number of images that the whole training processes."""
        return self.cfg.SOLVER.MAX_ITER * self.budget.batch_size

    @property
    def done(self) -> bool:
        """Whether the training is finished."""
        return (self.folder / "results.json").is_file()

    def images_so_far(self) -> int:
        """The number of images processed so far, from `metrics.json`; 0 if it is not readable."""
        try:
            iterations = read_metrics(self.folder, warn=False)[-1]["iteration"] + 1
        except (OSError, ValueError):
            return 0
        return min(iterations, self.cfg.SOLVER.MAX_ITER) * self.budget.batch_size

    def rows(self) -> list[dict]:
        """The results of the final evaluation on `DATASETS.TEST[0]`, see `result_rows`."""
        rows = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))["rows"]
        return [row for row in rows if row["dataset"] == self.cfg.DATASETS.TEST[0]]

    def metrics(self) -> dict[str, float]:
        """Returns the values of `rows` of a detector by metric: `{"AP50": ..., ...}`.

        They are those of the last weights, even if the run also averages its weights.
        """
        return {row["metric"]: row["mean"] for row in self.rows() if "weights" not in row}

    def training_seconds(self) -> float | None:
        """Estimates the training time, see `flowdet.reporting.runs.training_seconds`; None without
        a readable `metrics.json`."""
        try:
            return training_seconds(read_metrics(self.folder, warn=False))
        except (OSError, ValueError):
            return None

    def last_output_line(self) -> str:
        """Returns the last line that the training printed."""
        log = self.folder / "output.txt"
        lines = (
            log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        )
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


def group_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups the runs that differ only in their seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return list(groups.values())


class Comparison:
    """Trains the unfinished runs, each in its own process.

    Args:
        runs: all runs of the comparison.
        train_command: the command that starts a training, without its arguments.
        jobs: number of runs that are trained at the same time. They share the cores of the CPU.

    Attributes:
        failed: describes each run that failed in `train`, by its folder: exit status, last line of
            the output and log file.

    Raises:
        ValueError: a folder contains a run of another config, or two runs have the same folder.
    """

    def __init__(
        self, runs: Sequence[Run], train_command: Sequence[str] = TRAIN_COMMAND, jobs: int = 1
    ):
        self.runs = list(runs)
        self.train_command = train_command
        self.jobs = jobs
        self.failed: dict[Path, str] = {}
        self._processes: list[subprocess.Popen] = []
        folders = [run.folder for run in self.runs]
        duplicate = next((f for f in folders if folders.count(f) > 1), None)
        if duplicate:
            raise ValueError(
                f"two runs have the same folder {duplicate}: a method or a batch size is given "
                "twice, or an override makes two runs the same"
            )
        for run in self.runs:
            if (run.folder / "config.yaml").is_file():
                check_same_run(run.folder, run.cfg)

    def train(self, finished: Callable[[Run], None] | None = None) -> None:
        """Trains all unfinished runs. A KeyboardInterrupt also stops the current trainings.

        Args:
            finished: is called with every run that was trained. With a single job, the next run
                starts after it.

        Raises:
            BlockingIOError: another process is training in the folder of a run.
        """
        total = sum(run.images for run in self.runs)
        initial = sum(run.images if run.done else run.images_so_far() for run in self.runs)
        with tqdm(total=total, initial=initial, unit=" images", smoothing=0.05) as bar:
            for run, status in self._one_by_one(bar) if self.jobs == 1 else self._at_once(bar):
                if run.done:
                    _delete_intermediate_checkpoints(run.folder)
                    if finished:
                        finished(run)
                    continue
                log, line = run.folder / "output.txt", run.last_output_line()
                self.failed[run.folder] = f"exit status {status}: {line} (see {log})"
                tqdm.write(f"{run.folder.name} failed, {self.failed[run.folder]}")

    def _one_by_one(self, bar: tqdm) -> Iterator[tuple[Run, int]]:
        """Trains the unfinished runs in turn; yields each with its exit status."""
        for number, run in enumerate(self.runs, start=1):
            if not run.done:
                bar.set_description(f"run {number} of {len(self.runs)}: {run.folder.name}")
                yield run, self._train_run(run, bar)

    def _at_once(self, bar: tqdm) -> Iterator[tuple[Run, int]]:
        """As `_one_by_one`, but trains up to `jobs` runs at the same time."""
        with ThreadPoolExecutor(self.jobs) as pool:
            runs = {
                pool.submit(self._train_run, run, bar): run for run in self.runs if not run.done
            }
            bar.set_description(f"{len(runs)} runs, {self.jobs} at a time")
            try:
                for future in as_completed(runs):
                    yield runs[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in self._processes:
                    process.terminate()
                raise

    def _environment(self) -> dict[str, str]:
        """The environment of a training. With several at a time, each gets its part of the cores:
        with all threads in each of them, they would wait for each other."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        default = {} if self.jobs == 1 else {"OMP_NUM_THREADS": str(threads)}
        return default | os.environ

    def _train_run(self, run: Run, bar: tqdm) -> int:
        """Trains a run in a subprocess, updates the progress bar, and returns the exit status."""
        run.folder.mkdir(parents=True, exist_ok=True)
        # not 0 for an interrupted run, which resumes from its last checkpoint
        shown = run.images_so_far()
        with (
            _locked(run.folder) as lock,
            open(run.folder / "output.txt", "w", encoding="utf-8") as log,
        ):
            process = subprocess.Popen(
                [*self.train_command, *run.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                # the training keeps the lock even if this process is killed
                pass_fds=[lock.fileno()],
            )
            self._processes.append(process)
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        pass
                    processed = run.images_so_far()
                    bar.update(processed - shown)
                    shown = processed
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        bar.update((run.images if run.done else 0) - shown)
        return process.returncode


@contextmanager
def _locked(folder: Path) -> Iterator[TextIO]:
    """Locks a folder for one training.

    Raises:
        BlockingIOError: another process is training in the folder.
    """
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another process is training in {folder}: wait for it, or stop it"
            ) from error
        yield lock


def _delete_intermediate_checkpoints(folder: Path) -> None:
    """Deletes all checkpoints of a finished run except `model_final.pth`."""
    for path in folder.glob("model_[0-9]*.pth"):
        path.unlink()
