"""Variants of a training under one budget, each evaluated in several inference modes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from tabulate import tabulate

from flowdet.detection import FlowMatchingDetector
from flowdet.engine import Trainer, WholeModelCheckpointer
from flowdet.experiments.comparison import Budget, Run, over_seeds
from flowdet.experiments.comparison_table import (
    describe,
    mean_and_std,
    missing_row,
    seeds_done,
    with_spread,
)
from flowdet.experiments.refinement import refinement_rows
from flowdet.flow import InferencePlan
from flowdet.reporting.results import write_text

_KEYS = {"config", "budget", "modes", "variants"}
# how much of a row tells what was measured
_POINT = ("mode", "num_steps", "block", "metric")


@dataclass(frozen=True)
class Variant:
    """One line of the table: a config and what is changed in it, `KEY VALUE` pairs."""

    name: str
    config_file: str
    overrides: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True)
class Study:
    """What an ablation trains.

    Attributes:
        budget: of every training.
        modes: the inference modes in which a flow model is evaluated; the first is the one whose
            AP75 the table shows.
        variants: in the order of the table.
    """

    budget: Budget
    modes: tuple[InferencePlan, ...]
    variants: tuple[Variant, ...]

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """Reads a YAML file:

            config: ../digits_flow.yaml        # seen from this file
            budget: "8:6"                      # see `Budget.parse`
            modes: [multi_step-4, ensemble]    # see `flowdet.flow.InferencePlan`
            variants:
              recipe: {}
              interpolated: {MODEL.FLOW_DET.TRAINING_STATES: interpolated}
              backprop: {config: ../digits_backprop.yaml}

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: something in it is missing or no such thing; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no study {str(path)!r}")
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {error}") from error
        if not isinstance(content, dict) or content.keys() != _KEYS:
            raise ValueError(f"{path} must have the keys {', '.join(sorted(_KEYS))} and no others")
        if not isinstance(content["variants"], dict) or not content["variants"]:
            raise ValueError(f"{path}: `variants` must name at least one")
        if not isinstance(content["modes"], list) or not content["modes"]:
            raise ValueError(f"{path}: `modes` must list at least one")
        return cls(
            Budget.parse(str(content["budget"])),
            tuple(InferencePlan.parse(str(name)) for name in content["modes"]),
            tuple(
                _variant(path, str(name), keys, content["config"])
                for name, keys in content["variants"].items()
            ),
        )

    def chosen(self, names: Sequence[str]) -> Study:
        """With these variants only; raises ValueError if there is none of a name."""
        there = {variant.name: variant for variant in self.variants}
        unknown = [name for name in names if name not in there]
        if unknown:
            raise ValueError(f"there is no variant {unknown[0]!r}, only {', '.join(there)}")
        return replace(self, variants=tuple(there[name] for name in names))


def _variant(path: Path, name: str, keys: object, config: str) -> Variant:
    if not isinstance(keys, dict):
        raise ValueError(f"{path}: variant {name!r} must be a mapping of keys to values")
    keys = dict(keys)
    file = path.parent / str(keys.pop("config", config))
    if not file.is_file():
        raise ValueError(f"{path}: variant {name!r} has no config file {file}")
    words = tuple(str(word) for pair in keys.items() for word in pair)
    return Variant(name, str(file), words)


def mode_rows(run: Run, modes: Sequence[InferencePlan]) -> list[dict]:
    """The accuracy of a finished run in these modes, or of its last layer if it has none.

    Kept in the run's folder as `modes.json`, so that a second call is quick.
    """
    path = run.folder / "modes.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    wanted = [walk.name for walk in modes]
    if kept.get("modes") != wanted:
        model = Trainer.build_model(run.cfg).eval()
        WholeModelCheckpointer(model).load(str(run.folder / "model_final.pth"))
        # those of blocks that the variant does not have are left out
        count = model.flow.num_blocks if isinstance(model, FlowMatchingDetector) else math.inf
        walks = [walk for walk in modes if walk.block < count]
        rows = refinement_rows(run.cfg, model, walks, metrics_of(run), every_step=False)
        kept = {"modes": wanted, "rows": rows}
        write_text(path, json.dumps(kept, indent=1) + "\n")
    return kept["rows"]


def metrics_of(run: Run) -> tuple[str, str]:
    """AP50 and AP75, of the classes that the run's config parameter."""
    suffix = "-subset" if run.cfg.TEST.CLASS_SUBSET else ""
    return f"AP50{suffix}", f"AP75{suffix}"


def ablation_rows(runs: Mapping[str, Sequence[Run]], modes: Sequence[InferencePlan]) -> list[dict]:
    """Rows of a result file, by variant: mean and standard deviation over the seeds of each
    metric in each mode, `training_seconds`, and `missing_runs`."""
    rows = []
    for name, group in runs.items():
        common = {"variant": name} | describe(group[0])
        done = [run for run in group if run.done]
        values: dict[tuple, list[float]] = {}
        for row in (row for run in done for row in mode_rows(run, modes)):
            key = tuple((field, row[field]) for field in _POINT if field in row)
            values.setdefault(key, []).append(row["mean"])
        rows += [common | dict(key) | mean_and_std(found) for key, found in values.items()]
        seconds = [found for run in done if (found := run.training_seconds()) is not None]
        if seconds:
            rows.append(common | {"metric": "training_seconds", **mean_and_std(seconds)})
        rows.append(common | missing_row(group))
    return rows


def by_variant(study: Study, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each variant, which are named by their slugs."""
    groups = {group[0].name: group for group in over_seeds(runs)}
    return {variant.name: groups[variant.slug] for variant in study.variants}


def ablation_table(
    rows: Sequence[dict], modes: Sequence[InferencePlan], style: str = "simple"
) -> str:
    """The rows as a table, a line per variant: AP75 in the first mode, AP50 in all of them.

    The last layer of a model without modes stands in the columns of the first mode.
    """
    lines = _lines(rows, modes[0])
    columns = [("AP75", modes[0].name), *(("AP50", walk.name) for walk in modes)]
    table = [
        [
            variant,
            *(with_spread(found.get(column)) for column in columns),
            with_spread(found.get(("training_seconds", ""))),
            seeds_done({"missing_runs": found["missing_runs", ""]}),
        ]
        for variant, found in lines.items()
    ]
    headers = ["variant", *(" ".join(column) for column in columns), "training (s)", "seeds"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def ablation_figure(rows: Sequence[dict], modes: Sequence[InferencePlan]) -> Figure:
    """AP50 and AP75 of every variant in the first mode, with the standard deviation; level lines
    show the first variant's."""
    lines = _lines(rows, modes[0])
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for metric, color in (("AP50", "C0"), ("AP75", "C1")):
        found = [line.get((metric, modes[0].name)) for line in lines.values()]
        shown = [(place, row["mean"], row["std"] or 0.0) for place, row in enumerate(found) if row]
        if not shown:
            continue
        places, values, spread = zip(*shown)
        axes.axvline(values[0], color=color, linewidth=0.8, alpha=0.5)
        style = {"fmt": "o", "markersize": 4, "color": color, "label": metric}
        axes.errorbar(values, places, xerr=spread, **style)
    axes.set_yticks(range(len(lines)), lines)
    axes.invert_yaxis()
    axes.set(xlabel=f"AP in % ({modes[0].name})", xlim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    return figure


def _lines(rows: Sequence[dict], first: InferencePlan) -> dict[str, dict[tuple[str, str], dict]]:
    """By variant its rows, by metric and mode."""
    lines: dict[str, dict[tuple[str, str], dict]] = {}
    for row in rows:
        lines.setdefault(row["variant"], {})[_cell(row, first)] = row
    return lines


def _cell(row: dict, first: InferencePlan) -> tuple[str, str]:
    """A row's metric and mode."""
    metric, mode = row["metric"].removesuffix("-subset"), row.get("mode")
    if mode is None:
        return metric, ""
    if mode == "layers":
        return metric, first.name
    return metric, InferencePlan(mode, row["num_steps"], row.get("block", 0)).name
