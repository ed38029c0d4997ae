"""The result file of a comparison that several sessions continue: it keeps every finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowdet.experiments.comparison import Run
from flowdet.experiments.comparison_table import mean_and_std
from flowdet.experiments.recorded_runs import (
    SCHEDULE_KEYS,
    RecordedRun,
    differing_keys,
    recorded_keys,
)
from flowdet.reporting.command_line import typed_command
from flowdet.reporting.results import write_results

# the entry of the settings with the keys that have the same value in all runs
_COMMON = "common"


@dataclass(frozen=True)
class TableLine:
    """A line of the table: the runs of one method with one budget.

    Attributes:
        budget: the name of the budget, e.g. `10 epochs` or `1500 seconds`.
        run: the name of the runs, one for each seed.
        columns: the columns of the line's rows, see `method_columns`.
        planned: the number of seeds.
        seconds_per_epoch: the measured seconds from which the number of epochs of a budget in
            seconds was computed; None for a budget in epochs.
    """

    budget: str
    run: str
    columns: Mapping[str, object]
    planned: int
    seconds_per_epoch: float | None = None

    @property
    def method(self) -> str:
        return self.columns["method"]

    def rows(self, runs: Sequence[RecordedRun]) -> list[dict]:
        """Computes the rows of the result file: mean and standard deviation over the seeds.

        The row `missing_runs` counts the planned seeds that are not finished.

        Args:
            runs: the finished runs of this line.
        """
        common = {**self.columns, "budget": self.budget, "run": self.run}
        if self.seconds_per_epoch is not None:
            common["seconds_per_epoch"] = self.seconds_per_epoch
        metrics = dict.fromkeys(name for run in runs for name in run.values)
        rows = [
            common | {"metric": name} | mean_and_std([run.values[name] for run in having])
            for name in metrics
            if (having := [run for run in runs if name in run.values])
        ]
        # an earlier session may have trained more seeds
        planned = max(self.planned, len(runs))
        missing = planned - len(runs)
        return [
            *rows,
            common | {"metric": "missing_runs", "mean": missing, "std": None, "n": planned},
        ]

    @classmethod
    def from_row(cls, row: dict) -> TableLine:
        """Reads a line from its row `missing_runs`."""
        own = ("budget", "run", "seconds_per_epoch", "metric", "mean", "std", "n")
        columns = {key: value for key, value in row.items() if key not in own}
        return cls(row["budget"], row["run"], columns, row["n"], row.get("seconds_per_epoch"))


@dataclass
class RunRecord:
    """The content of a result file.

    Attributes:
        runs: the finished runs by name and seed.
        settings: the config keys of the runs by name, see `recorded_keys`.
        lines: the lines of the table by budget and method.
        searches: the row of each method's learning-rate search.
        costs: the rows of each method's costs.
    """

    runs: dict[tuple[str, int], RecordedRun] = field(default_factory=dict)
    settings: dict[str, dict] = field(default_factory=dict)
    lines: dict[tuple[str, str], TableLine] = field(default_factory=dict)
    searches: dict[str, dict] = field(default_factory=dict)
    costs: dict[str, list[dict]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Reads a result file.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a result file of such a comparison.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no result file {path}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls._from_content(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a result file of a comparison of peers ({error!r}): use another "
                "file, or delete it"
            ) from error

    @classmethod
    def _from_content(cls, content: dict) -> RunRecord:
        record = cls()
        settings = dict(content["settings"])
        common = settings.pop(_COMMON)
        record.settings = {name: common | keys for name, keys in settings.items()}
        rows: dict[tuple[str, int], list[dict]] = {}
        for row in content["rows"]:
            if "seed" in row:
                rows.setdefault((row["run"], row["seed"]), []).append(row)
            elif "budget" in row:
                if row["metric"] == "missing_runs":
                    line = TableLine.from_row(row)
                    record.lines[line.budget, line.method] = line
            elif row["metric"] == "best_base_lr":
                record.searches[row["method"]] = row
            else:
                record.costs.setdefault(row["method"], []).append(row)
        record.runs = {key: RecordedRun(tuple(group)) for key, group in rows.items()}
        unknown = [name for name, _ in record.runs if name not in record.settings]
        if unknown:
            raise KeyError(f"settings of {unknown[0]}")
        return record

    def merge(self, other: RunRecord, source: Path) -> None:
        """Adds the content of another result file; lines and costs replace those here.

        A search has the learning rates of both files, and the best of them.

        Args:
            other: the content of the file.
            source: the file, for the error message.

        Raises:
            ValueError: a run has other numbers or another config there.
        """
        for key, run in other.runs.items():
            name, seed = key
            same_settings = self.settings.get(name, other.settings[name]) == other.settings[name]
            if not same_settings or self.runs.get(key, run).values != run.values:
                what = "results" if same_settings else "settings"
                raise ValueError(
                    f"{source}: {name} with seed {seed} has other {what} than in the files read "
                    "before it: leave one of the files out"
                )
        self.runs |= other.runs
        self.settings |= other.settings
        self.lines |= other.lines
        for method, row in other.searches.items():
            own = self.searches.get(method)
            self.searches[method] = row if own is None else _merged_search(own, row)
        self.costs |= other.costs

    def add(self, method: str, run: Run, **times) -> None:
        """Adds a finished run; `times` are the keyword arguments of `RecordedRun.of`.

        Raises:
            ValueError: as `RecordedRun.of`.
        """
        self.runs[run.name, run.seed] = RecordedRun.of(method, run, **times)
        self.settings.setdefault(run.name, recorded_keys(run.cfg))

    def has(self, run: Run) -> bool:
        """Whether a run is recorded. Its config must have been checked with `changed_runs`."""
        return (run.name, run.seed) in self.runs

    def seeds_of(self, name: str) -> list[RecordedRun]:
        """Returns the recorded runs of this name, in the order of their seeds."""
        return [self.runs[key] for key in sorted(self.runs) if key[0] == name]

    def searched(self, method: str, run: Run, metric: str) -> dict[float, float]:
        """Returns the values of a metric in the recorded runs of a learning-rate search.

        Args:
            method: the name of the method.
            run: a planned run of the search.
            metric: an accuracy.

        Returns:
            The value by learning rate, in ascending order, of all recorded runs that differ from
            `run` only in the learning rate.
        """
        planned, values = recorded_keys(run.cfg), {}
        for (name, seed), recorded in self.runs.items():
            row = recorded.rows[0]
            if (recorded.method, seed, row["epochs"]) == (method, run.seed, run.budget.epochs):
                if not differing_keys(self.settings[name], planned, ("SOLVER.BASE_LR",)):
                    values[row["base_lr"]] = recorded.values[metric]
        return dict(sorted(values.items()))

    def changed_runs(self, method: str, run: Run) -> dict[str, str]:
        """Finds the recorded runs of a method that have another config than a planned run.

        Runs of another name may differ in the learning rate and in the length of the training.

        Args:
            method: the name of the method.
            run: a planned run of the method.

        Returns:
            A description of the differing keys, by the name of the recorded run.
        """
        names = {recorded.name for recorded in self.runs.values() if recorded.method == method}
        planned = recorded_keys(run.cfg)
        changed = {}
        for name in sorted(names):
            allowed = () if name == run.name else SCHEDULE_KEYS
            differing = differing_keys(self.settings[name], planned, allowed)
            if differing:
                changed[name] = ", ".join(differing[:3])
        return changed

    def drop(self, names: Sequence[str]) -> None:
        """Removes runs, with the table lines and the searches that use them."""
        methods = {run.method for run in self.runs.values() if run.name in names}
        self.runs = {key: run for key, run in self.runs.items() if key[0] not in names}
        self.settings = {name: x for name, x in self.settings.items() if name not in names}
        self.lines = {key: line for key, line in self.lines.items() if line.run not in names}
        self.searches = {name: x for name, x in self.searches.items() if name not in methods}
        self.costs = {name: x for name, x in self.costs.items() if name not in methods}

    def rows(self) -> list[dict]:
        """Returns all rows: of the table, of the searches, of the costs, and of every run."""
        lines = [row for line in self.lines.values() for row in line.rows(self.seeds_of(line.run))]
        costs = [row for rows in self.costs.values() for row in rows]
        runs = [row for run in self.runs.values() for row in run.rows]
        return [*lines, *self.searches.values(), *costs, *runs]

    def write(self, path: Path, config_files: Sequence[str]) -> Path:
        """Writes the result file; see `write_results`."""
        return write_results(
            path,
            self.rows(),
            command=typed_command(),
            config=", ".join(config_files),
            seeds=sorted({seed for _, seed in self.runs}),
            settings=_with_common(self.settings),
        )


def _merged_search(one: dict, other: dict) -> dict:
    """Merges the rows of two learning-rate searches of a method.

    Searches of other epochs or by another accuracy cannot be compared: then the row is `other`.
    """
    key = next(name for name in other if name.startswith("searched_"))
    if key not in one or one["epochs"] != other["epochs"]:
        return other
    values = dict(zip(one["searched"], one[key])) | dict(zip(other["searched"], other[key]))
    values = dict(sorted(values.items()))
    best = max(values, key=values.get)
    return other | {
        "base_lr": best,
        "mean": best,
        "n": len(values),
        "searched": list(values),
        key: list(values.values()),
    }


def _with_common(settings: dict[str, dict]) -> dict[str, dict]:
    """Moves the keys that have the same value in all runs to an entry `common`."""
    first, *others = settings.values() or [{}]
    common = {
        key: value
        for key, value in first.items()
        if all(key in keys and keys[key] == value for keys in others)
    }
    return {_COMMON: common} | {
        name: {key: value for key, value in keys.items() if key not in common}
        for name, keys in settings.items()
    }
