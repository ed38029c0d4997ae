"""Trainings that are compared, each under a budget: the runs behind Tables 1 and 3 (5.1, 5.4)."""

from __future__ import annotations

import fcntl
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from detectron2.config import CfgNode
from tqdm import tqdm

from flowdet.engine import load_config, resolve_config
from flowdet.reporting.results import method_of
from flowdet.reporting.runs import check_same_run, read_metrics, training_seconds

_POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Budget:
    """How long, and with how many images at a time, both sides are trained.

    Part of an epoch, as in 8:5.5, is for sides that take the same time, not the same epochs.
    """

    batch_size: int
    epochs: float
    base_lr: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`BATCH:EPOCHS` or `BATCH:EPOCHS:LEARNING_RATE`; raises ValueError for anything else."""
        try:
            batch_size, epochs, *lr = text.split(":")
            number = float(epochs)
            number = int(number) if number.is_integer() else number
            budget = cls(int(batch_size), number, *map(float, lr))
        except (ValueError, TypeError):
            budget = None
        if budget is None or not budget._possible():
            raise ValueError(
                f"{text!r} is no budget: give batch size:epochs, and :learning rate if it is not "
                "the config's, e.g. 8:6 1:1:1.25e-4"
            )
        return budget

    def _possible(self) -> bool:
        lr = 1.0 if self.base_lr is None else self.base_lr
        return self.batch_size >= 1 and 0 < self.epochs < math.inf and 0 < lr < math.inf

    def overrides(self) -> list[str]:
        """But for the `length`."""
        keys = {"SOLVER.IMS_PER_BATCH": self.batch_size}
        if self.base_lr is not None:
            keys["SOLVER.BASE_LR"] = self.base_lr
        return [str(word) for pair in keys.items() for word in pair]

    def length(self, config_file: str, words: Sequence[str]) -> list[str]:
        """The override that makes a training with these overrides so long."""
        whole = ["SOLVER.MAX_EPOCHS", str(math.ceil(self.epochs))]
        if isinstance(self.epochs, int):
            return whole
        cfg = resolve_config(load_config(config_file, [*words, *whole]))
        iterations = round(cfg.SOLVER.MAX_ITER * self.epochs / math.ceil(self.epochs))
        return ["SOLVER.MAX_ITER", str(max(iterations, 1))]


@dataclass(frozen=True)
class Run:
    """One training of the comparison.

    Attributes:
        name: what it has in common with the runs that differ in nothing but the seed.
        config_file, overrides: what `tools/train_net.py` gets.
        cfg: the resolved config that they make.
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
        """A run in the folder `output/NAME_seedN`.

        Args:
            overrides: `KEY VALUE` pairs; what the budget and the seed set is none of them.
            name: the default is `METHOD_batchN`.

        Raises:
            what `load_config` and `resolve_config` raise, e.g. for a missing dataset.
        """
        words = [*overrides, *budget.overrides(), "SEED", str(seed)]
        if name is None:
            name = f"{method_of(load_config(config_file, words))}_batch{budget.batch_size}"
        words += ["OUTPUT_DIR", str(output / f"{name}_seed{seed}")]
        words += budget.length(config_file, words)
        cfg = resolve_config(load_config(config_file, words))
        # whatever the epochs, a stop loses a quarter of a run at most
        period = max(cfg.SOLVER.MAX_ITER // 4, 1)
        words += ["SOLVER.CHECKPOINT_PERIOD", str(period)]
        return cls(name, config_file, budget, seed, tuple(words), cfg)

    @property
    def method(self) -> str:
        return method_of(self.cfg)

    @property
    def folder(self) -> Path:
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def arguments(self) -> list[str]:
        """Of `tools/train_net.py`."""
        return ["--config-file", self.config_file, "--resume", *self.overrides]

    @property
    def images(self) -> int:
        return self.cfg.SOLVER.MAX_ITER * self.budget.batch_size

    @property
    def done(self) -> bool:
        return (self.folder / "results.json").is_file()

    def images_so_far(self) -> int:
        """0 where nothing is written yet."""
        try:
            iterations = read_metrics(self.folder, warn=False)[-1]["iteration"] + 1
        except (OSError, ValueError):
            return 0
        return min(iterations, self.cfg.SOLVER.MAX_ITER) * self.budget.batch_size

    def rows(self) -> list[dict]:
        """Of the evaluation on `DATASETS.TEST[0]` after the training, see `result_rows`."""
        rows = json.loads((self.folder / "results.json").read_text())["rows"]
        return [row for row in rows if row["dataset"] == self.cfg.DATASETS.TEST[0]]

    def metrics(self) -> dict[str, float]:
        """The `rows` of a detector, by metric: `{"AP50": ..., ...}`."""
        return {row["metric"]: row["mean"] for row in self.rows()}

    def training_seconds(self) -> float | None:
        """See `flowdet.reporting.runs`; None where its `metrics.json` does not tell."""
        try:
            return training_seconds(read_metrics(self.folder, warn=False))
        except (OSError, ValueError):
            return None

    def last_words(self) -> str:
        """The last line that the training has printed."""
        log = self.folder / "output.txt"
        lines = log.read_text().splitlines() if log.is_file() else []
        return next((line for line in reversed(lines) if line.strip()), "it has printed nothing")


def over_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of the runs that differ in nothing but the seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return list(groups.values())


class Comparison:
    """Trains what is not trained yet, one run after the other, each by `tools/train_net.py`.

    Args:
        runs: all of them.
        train_command: path of `tools/train_net.py`.

    Attributes:
        failed: why each run of this call that has failed did so: its exit status, last line and
            log.

    Raises:
        ValueError: a folder holds a run of another config, or two runs have the same folder.
    """

    def __init__(self, runs: Sequence[Run], train_command: Path):
        self.runs = list(runs)
        self.train_command = train_command
        self.failed: dict[Path, str] = {}
        folders = [run.folder for run in self.runs]
        twice = next((f for f in folders if folders.count(f) > 1), None)
        if twice:
            raise ValueError(
                f"two runs would go to {twice}: a method or a batch size is named twice, or an "
                "override makes two of them the same"
            )
        for run in self.runs:
            if (run.folder / "config.yaml").is_file():
                check_same_run(run.folder, run.cfg)

    def train(self) -> None:
        """Runs what is left; KeyboardInterrupt stops the current training, too."""
        total = sum(run.images for run in self.runs)
        initial = sum(run.images if run.done else run.images_so_far() for run in self.runs)
        with tqdm(total=total, initial=initial, unit=" images", smoothing=0.05) as bar:
            for number, run in enumerate(self.runs, start=1):
                if run.done:
                    continue
                bar.set_description(f"run {number} of {len(self.runs)}: {run.folder.name}")
                status = self._watch(run, bar)
                if run.done:
                    _drop_intermediate_checkpoints(run.folder)
                    continue
                log = run.folder / "output.txt"
                self.failed[run.folder] = f"exit status {status}: {run.last_words()} (see {log})"
                tqdm.write(f"{run.folder.name} has failed, {self.failed[run.folder]}")

    def _watch(self, run: Run, bar: tqdm) -> int:
        """Trains with the progress shown; the exit status."""
        run.folder.mkdir(parents=True, exist_ok=True)
        # of a stopped run, which goes on at its last checkpoint
        seen = run.images_so_far()
        with _locked(run.folder) as lock, open(run.folder / "output.txt", "w") as log:
            process = subprocess.Popen(
                [sys.executable, str(self.train_command), *run.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                # holds the lock as long as it lives, even if this process is killed
                pass_fds=[lock.fileno()],
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        pass
                    now = run.images_so_far()
                    bar.update(now - seen)
                    seen = now
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        bar.update((run.images if run.done else 0) - seen)
        return process.returncode


@contextmanager
def _locked(folder: Path) -> Iterator[TextIO]:
    """Raises BlockingIOError while another process trains in the folder."""
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is being trained by another process: wait for it, or end it"
            ) from error
        yield lock


def _drop_intermediate_checkpoints(folder: Path) -> None:
    """Those of a finished run: model_final.pth is all that is wanted then."""
    for path in folder.glob("model_[0-9]*.pth"):
        path.unlink()
