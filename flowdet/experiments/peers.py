"""Compares detectors of different methods at equal epochs and at equal training seconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowdet.engine import load_config
from flowdet.experiments.cached_features import fill_feature_caches
from flowdet.experiments.comparison import TRAIN_COMMAND, Budget, Comparison, Run
from flowdet.experiments.peer_costs import cost_rows
from flowdet.experiments.recorded_runs import ap_names, method_columns
from flowdet.experiments.run_record import RunRecord, TableLine


class PeerComparison:
    """Trains every method with every budget and seed, and keeps the results in one file.

    The file is written after every finished run. Runs that it already has are not trained again,
    even if their folders do not exist any more, so several sessions can share one comparison.

    Args:
        config_files: the config file of each method, by name.
        output: the folder of the runs.
        results: the result file; it is read first if it exists.
        overrides: overrides of every config, as `KEY VALUE` pairs.
        epochs: the budgets in epochs. The learning-rate search uses the shortest.
        seconds: the budgets in seconds of training.
        learning_rates: the values of the search, for seed 0; () for those of the configs. Runs
            with other values in the result file stay in the table of the search.
        seeds: the number of seeds of each method, by name.
        merged: further result files whose runs are added.
        jobs: number of runs that are trained at the same time. If it is above 1, no training
            seconds are recorded, except those of `epoch_seconds`.
        epoch_seconds: seconds of an epoch by method, measured elsewhere: instead of the times of
            the runs they give the training seconds, and the epochs of the budgets in seconds.
        replace: whether recorded runs of another config are removed; otherwise they are an error.
        train_command: the command that starts a training, without its arguments.

    Attributes:
        record: the content of the result file.
        failed: describes each failed run, by its folder.
        failures: describes each method, budget and measurement that had to be left out, and each
            method that a learning rate of an earlier session suits better.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `Run.plan` and `RunRecord.read`; or a recorded
            run has another config, or other seconds of an epoch, than the planned one.
    """

    def __init__(
        self,
        config_files: Mapping[str, str],
        output: Path,
        results: Path,
        overrides: Sequence[str] = (),
        *,
        epochs: Sequence[float],
        seconds: Sequence[float] = (),
        learning_rates: Sequence[float] = (),
        seeds: Mapping[str, int],
        merged: Sequence[Path] = (),
        jobs: int = 1,
        epoch_seconds: Mapping[str, float] | None = None,
        replace: bool = False,
        train_command: Sequence[str] = TRAIN_COMMAND,
    ):
        self.config_files = dict(config_files)
        self.output, self.results, self.overrides = output, results, list(overrides)
        self.merged = list(merged)
        self.epochs, self.seconds, self.seeds = sorted(epochs), list(seconds), dict(seeds)
        self.learning_rates, self.replace = list(learning_rates), replace
        self.jobs, self.epoch_seconds = jobs, dict(epoch_seconds or {})
        self.train_command = train_command
        self.failed: dict[Path, str] = {}
        self.failures: list[str] = []
        self._best_lr: dict[str, float] = {}
        self._caches_filled = False
        self._plans: dict[tuple, Run] = {}
        self.record = RunRecord.read(results) if results.is_file() else RunRecord()
        for path in self.merged:
            self.record.merge(RunRecord.read(path), path)
        # reports errors of all configs before the first training
        self._searched = {
            method: [self.plan(method, self.epochs[0], 0, lr) for lr in learning_rates or [None]]
            for method in self.config_files
        }
        self._check_dataset()
        self._check_epoch_seconds()

    @property
    def runs(self) -> list[Run]:
        """All runs that were planned so far."""
        return list(self._plans.values())

    def plan(self, method: str, epochs: float, seed: int, lr: float | None) -> Run:
        """Plans a run of a method; a learning rate of None is that of its config.

        Raises:
            FileNotFoundError, KeyError, ValueError: as `Run.plan`; or a recorded run of the method
                has another config.
        """
        key = (method, epochs, seed, lr)
        if key not in self._plans:
            solver = load_config(self.config_files[method], self.overrides).SOLVER
            lr = solver.BASE_LR if lr is None else lr
            budget = Budget(solver.IMS_PER_BATCH, epochs, lr)
            name = f"{method}_{epochs:g}epochs_lr{lr:g}"
            file = self.config_files[method]
            run = Run.plan(file, budget, seed, self.output, self.overrides, name)
            self._check_config(method, run)
            same = [x for x in self.runs if x.folder == run.folder and x.budget != run.budget]
            if same:
                # names of runs have numbers of six digits
                raise ValueError(
                    f"two runs would have the folder {run.folder}: their epochs or learning rates "
                    "differ by too little, leave one of them out"
                )
            self._plans[key] = run
        return self._plans[key]

    def _check_config(self, method: str, run: Run) -> None:
        changed = self.record.changed_runs(method, run)
        if changed and not self.replace:
            name, keys = next(iter(changed.items()))
            files = " or ".join(map(str, [self.results, *self.merged]))
            raise ValueError(
                f"{files} has a run {name} of another config: {keys}. Give --replace to "
                "remove such runs from the file and to train them again, or use another --results"
            )
        self.record.drop(list(changed))

    def _check_dataset(self) -> None:
        """Raises ValueError if the result file has results of another dataset or other classes."""
        method, runs = next(iter(self._searched.items()))
        columns = method_columns(method, runs[0])
        for recorded in self.record.runs.values():
            for key in ("dataset", "classes"):
                value = recorded.rows[0].get(key)
                if value != columns.get(key):
                    raise ValueError(
                        f"{self.results} has results with {key} {value}, but these runs have "
                        f"{columns.get(key)}: use another result file (--results)"
                    )

    def _check_epoch_seconds(self) -> None:
        """Raises ValueError if recorded runs have the times of other seconds of an epoch."""
        for recorded in self.record.runs.values():
            method, value = recorded.method, recorded.rows[0].get("epoch_seconds")
            given = self.epoch_seconds.get(method, value)
            if value is not None and value != given:
                raise ValueError(
                    f"{self.results} has runs of {method} with --epoch-seconds {method}={value:g}, "
                    f"but this call has {method}={given:g}: give the same value, or use another "
                    "result file (--results)"
                )

    def train(self) -> None:
        """Trains all runs that are neither recorded nor finished, and measures the costs.

        The learning-rate search comes first, then the budgets in epochs, then those in seconds.
        Costs are not measured while several runs are trained at the same time.

        Raises:
            BlockingIOError: another process is training in the folder of a run.
            ValueError: a folder contains a run of another config.
        """
        self._train([(m, run) for m, runs in self._searched.items() for run in runs])
        methods = [method for method in self.config_files if self._choose_learning_rate(method)]
        if self.jobs == 1:
            self._measure_costs(methods)
        lines = [(m, (f"{n:g} epochs", n, None)) for n in self.epochs for m in methods]
        if not all(method in self.epoch_seconds for method in methods):
            # the times of these runs decide the epochs of the budgets in seconds
            self._train_lines(lines)
        lines += [
            (m, line) for s in self.seconds for m in methods if (line := self._seconds_line(m, s))
        ]
        self._train_lines(lines)

    def _choose_learning_rate(self, method: str) -> bool:
        """Chooses the best learning rate by AP; returns False if no run of the method finished."""
        runs = [run for run in self._searched[method] if self.record.has(run)]
        if not runs:
            self.failures.append(f"{method} is left out: none of its first runs has finished")
            return False
        metric = ap_names(runs[0].cfg)[-1]
        values = {
            run.cfg.SOLVER.BASE_LR: self.record.runs[run.name, run.seed].values[metric]
            for run in runs
        }
        self._best_lr[method] = best = max(values, key=values.get)
        if self.learning_rates:
            recorded = self.record.searched(method, runs[0], metric)
            self.record.searches[method] = method_columns(method, runs[0]) | {
                "metric": "best_base_lr",
                "base_lr": best,
                "mean": best,
                "std": None,
                "n": len(recorded),
                "searched": list(recorded),
                f"searched_{metric}": list(recorded.values()),
            }
            self._compare_with_recorded(method, metric, recorded)
            self._write()
        return True

    def _compare_with_recorded(
        self, method: str, metric: str, recorded: Mapping[float, float]
    ) -> None:
        """Notes a recorded learning rate that is better than all that this call searches."""
        best, own = max(recorded, key=recorded.get), self._best_lr[method]
        if recorded[best] > recorded[own]:
            self.failures.append(
                f"{method} is trained with the learning rate {own:g} ({metric} {recorded[own]:.1f} "
                f"in the search), but {self.results} also has {best:g} ({recorded[best]:.1f}): add "
                "it to --search-lr to train with it"
            )

    def _seconds_line(self, method: str, seconds: float) -> tuple[str, float, float] | None:
        """Returns budget name, epochs and measured seconds per epoch for a budget in seconds.

        A budget that the result file already has keeps its number of epochs.
        """
        budget, lr = f"{seconds:g} seconds", self._best_lr[method]
        line = self.record.lines.get((budget, method))
        if line and line.columns["base_lr"] == lr:
            return budget, line.columns["epochs"], line.seconds_per_epoch
        per_epoch = self.epoch_seconds.get(method) or self._measured_epoch(method)
        epochs = round(seconds / per_epoch, 1) if per_epoch else 0.0
        if not epochs:
            self.failures.append(
                f"{method} has no budget of {budget}: an epoch takes {per_epoch} seconds"
                if per_epoch
                else f"{method} has no budget of {budget}: its runs have no times (they are too "
                "short, or were trained with --jobs)"
            )
            return None
        return budget, int(epochs) if epochs.is_integer() else epochs, per_epoch

    def _measured_epoch(self, method: str) -> float:
        """Returns the mean seconds of an epoch in the shortest runs of a method; 0 if unknown."""
        first = self.plan(method, self.epochs[0], 0, self._given_lr(method))
        measured = [
            run.values["train_seconds"] / self.epochs[0]
            for run in self.record.seeds_of(first.name)
            if "train_seconds" in run.values
        ]
        return round(statistics.fmean(measured), 3) if measured else 0.0

    def _given_lr(self, method: str) -> float | None:
        """The learning rate with which the runs of a method are planned."""
        return self._best_lr[method] if self.learning_rates else None

    def _train_lines(self, lines: Sequence[tuple[str, tuple[str, float, float | None]]]) -> None:
        """Trains all seeds of lines (method, (budget, epochs, seconds per epoch)).

        Budget by budget, the first seed of all methods comes before the second.
        """
        runs = []
        for budget in dict.fromkeys(line[0] for _, line in lines):
            same = [(method, line) for method, line in lines if line[0] == budget]
            for seed in range(max(self.seeds.values(), default=0)):
                runs += [
                    (method, self._plan_line(method, seed, *line))
                    for method, line in same
                    if seed < self.seeds[method]
                ]
        self._write()
        self._train(runs)

    def _plan_line(
        self, method: str, seed: int, budget: str, epochs: float, per_epoch: float | None
    ) -> Run:
        """Plans a run of a table line, and records the line."""
        run = self.plan(method, epochs, seed, self._given_lr(method))
        columns, planned = method_columns(method, run), self.seeds[method]
        self.record.lines[budget, method] = TableLine(budget, run.name, columns, planned, per_epoch)
        return run

    def _train(self, runs: Sequence[tuple[str, Run]]) -> None:
        """Trains the runs that are neither recorded nor finished; records them one by one."""
        pending = {run.folder: (method, run) for method, run in runs if not self.record.has(run)}
        if not pending:
            return
        comparison = Comparison([run for _, run in pending.values()], self.train_command, self.jobs)
        for method, run in pending.values():
            if run.done:
                self._record(method, run)
        if not all(run.done for run in comparison.runs) and not self._caches_filled:
            fill_feature_caches(first.cfg for first, *_ in self._searched.values())
            self._caches_filled = True
        comparison.train(lambda run: self._record(pending[run.folder][0], run))
        self.failed |= comparison.failed

    def _record(self, method: str, run: Run) -> None:
        given = self.epoch_seconds.get(method)
        self.record.add(method, run, timed=self.jobs == 1, epoch_seconds=given)
        self._write()

    def _write(self) -> None:
        self.record.write(self.results, list(self.config_files.values()))

    def _measure_costs(self, methods: Sequence[str]) -> None:
        """Measures the costs of the methods and records them."""
        runs = {
            method: self.plan(method, self.epochs[0], 0, self._given_lr(method))
            for method in methods
        }
        try:
            self.record.costs |= cost_rows(runs, self.record.costs)
        except RuntimeError as error:
            # a GPU may be too small for all methods at once
            self.failures.append(f"memory and time could not be measured: {error}")
        self._write()
