"""Flow against backprop under one budget: the runs behind Table 1 (5.1)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from tqdm import tqdm

from flowdet.analysis.results import method_of
from flowdet.analysis.runs import check_same_run, read_metrics
from flowdet.engine import load_config, resolve_config

# keys that the comparison sets, and the options of its command that say to what
_RESERVED = {
    "SEED": "--seeds",
    "OUTPUT_DIR": "--output",
    "SOLVER.IMS_PER_BATCH": "--budget",
    "SOLVER.MAX_EPOCHS": "--budget",
    "SOLVER.MAX_ITER": "--budget",
}


@dataclass(frozen=True)
class Budget:
    """How long, and with how many images at a time, both sides are trained."""

    batch_size: int
    epochs: int
    base_lr: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`BATCH:EPOCHS` or `BATCH:EPOCHS:LEARNING_RATE`; raises ValueError for anything else."""
        try:
            batch_size, epochs, *lr = text.split(":")
            budget = cls(int(batch_size), int(epochs), *map(float, lr))
        except (ValueError, TypeError):
            budget = None
        if budget is None or min(budget.batch_size, budget.epochs) < 1 or budget.base_lr == 0:
            raise ValueError(
                f"{text!r} is no budget: give batch size:epochs, and :learning rate if it is not "
                "the config's, e.g. 8:6 1:1:1.25e-4"
            )
        return budget

    def overrides(self) -> list[str]:
        keys = {"SOLVER.IMS_PER_BATCH": self.batch_size, "SOLVER.MAX_EPOCHS": self.epochs}
        if self.base_lr is not None:
            keys["SOLVER.BASE_LR"] = self.base_lr
        return [str(word) for pair in keys.items() for word in pair]


@dataclass(frozen=True)
class Run:
    """One training of the comparison.

    Attributes:
        config_file, overrides: what `tools/train_net.py` gets.
        cfg: the resolved config that they make.
    """

    config_file: str
    budget: Budget
    seed: int
    overrides: tuple[str, ...]
    cfg: CfgNode

    @classmethod
    def plan(
        cls, config_file: str, budget: Budget, seed: int, output: Path, overrides: Sequence[str]
    ) -> Run:
        """Raises ValueError if an override is not for the caller to set, and what `load_config`
        and `resolve_config` raise, e.g. for a missing dataset."""
        for key in overrides[::2]:
            if key in _RESERVED:
                raise ValueError(f"{key} is set by {_RESERVED[key]}: leave it out")
        words = [*budget.overrides(), "SEED", str(seed), *overrides]
        method = method_of(load_config(config_file, words))
        folder = output / f"{method}_batch{budget.batch_size}_seed{seed}"
        words += ["OUTPUT_DIR", str(folder)]
        cfg = resolve_config(load_config(config_file, words))
        return cls(config_file, budget, seed, tuple(words), cfg)

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

    def metrics(self) -> dict[str, float]:
        """Of the evaluation after the training: `{"AP50": ..., ...}`."""
        rows = json.loads((self.folder / "results.json").read_text())["rows"]
        return {row["metric"]: row["mean"] for row in rows}

    def last_words(self) -> str:
        """The last line that the training has printed."""
        log = self.folder / "output.txt"
        lines = log.read_text().splitlines() if log.is_file() else []
        return next((line for line in reversed(lines) if line.strip()), "it has printed nothing")


class Comparison:
    """Trains what is not trained yet, one run after the other, each by `tools/train_net.py`.

    Args:
        runs: all of them.
        train_command: path of `tools/train_net.py`.

    Attributes:
        failed: the last line of each run that has failed in this call.

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
            raise ValueError(f"two runs would go to {twice}: a method or a budget is named twice")
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
                self._watch(run, bar)
                if not run.done:
                    self.failed[run.folder] = run.last_words()
                    tqdm.write(f"{run.folder.name} has failed: {run.last_words()}")

    def _watch(self, run: Run, bar: tqdm) -> None:
        """Trains with the progress shown."""
        run.folder.mkdir(parents=True, exist_ok=True)
        # of a stopped run, which goes on at its last checkpoint
        seen = run.images_so_far()
        with open(run.folder / "output.txt", "w") as log:
            process = subprocess.Popen(
                [sys.executable, str(self.train_command), *run.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=5)
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
