"""Ablations: trains variants under one budget and evaluates them in several inference modes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from flowdet.config.user_imports import check_trusted
from flowdet.data.limited_yaml import read_yaml
from flowdet.detection import FlowMatchingDetector
from flowdet.engine import Trainer, WholeModelCheckpointer
from flowdet.experiments.comparison import Budget, Run, group_seeds
from flowdet.experiments.comparison_table import (
    mean_and_std,
    mean_std_cell,
    missing_row,
    run_columns,
    seeds_cell,
)
from flowdet.experiments.refinement import refinement_rows
from flowdet.flow import InferencePlan
from flowdet.reporting.results import write_text

_KEYS = {"config", "budget", "modes", "variants"}
# the columns of a row that identify a measurement
_MEASURED = ("mode", "num_steps", "block", "metric")


@dataclass(frozen=True)
class Variant:
    """One line of the table: a config with overrides.

    Attributes:
        name: the name of the variant in the table.
        config_file: path of the config.
        overrides: `KEY VALUE` pairs.
    """

    name: str
    config_file: str
    overrides: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The name in a form that is valid as a folder name."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True)
class Study:
    """An ablation study.

    Attributes:
        budget: the budget of every training.
        modes: the inference modes in which every flow model is evaluated; the table shows AP75 for
            the first one.
        variants: the variants, in the order of the table.
    """

    budget: Budget
    modes: tuple[InferencePlan, ...]
    variants: tuple[Variant, ...]

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """Reads a study from a YAML file of this form:

            config: ../digits_flow.yaml        # relative to this file
            budget: "8:6"                      # see `Budget.parse`
            modes: [multi_step-4, ensemble]    # see `flowdet.flow.InferencePlan`
            variants:
              recipe: {}
              interpolated: {MODEL.FLOW_DET.TRAINING_STATES: interpolated}
              backprop: {config: ../digits_backprop.yaml}

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a key is missing or unknown, or a value is invalid; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no study file {str(path)!r}")
        content = read_yaml(path)
        if not isinstance(content, dict) or content.keys() != _KEYS:
            raise ValueError(f"{path} must have the keys {', '.join(sorted(_KEYS))} and no others")
        if not isinstance(content["variants"], dict) or not content["variants"]:
            raise ValueError(f"{path}: `variants` must name at least one variant")
        if not isinstance(content["modes"], list) or not content["modes"]:
            raise ValueError(f"{path}: `modes` must list at least one inference mode")
        return cls(
            Budget.parse(str(content["budget"])),
            tuple(InferencePlan.parse(str(name)) for name in content["modes"]),
            tuple(
                _variant(path, str(name), keys, content["config"])
                for name, keys in content["variants"].items()
            ),
        )

    def select(self, names: Sequence[str]) -> Study:
        """Returns a copy with only the variants of these names.

        Raises:
            ValueError: no variant has one of the names.
        """
        by_name = {variant.name: variant for variant in self.variants}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise ValueError(f"there is no variant {unknown[0]!r}, only {', '.join(by_name)}")
        return replace(self, variants=tuple(by_name[name] for name in names))


def _variant(path: Path, name: str, keys: object, config: str) -> Variant:
    if not isinstance(keys, dict):
        raise ValueError(f"{path}: variant {name!r} must be a mapping of keys to values")
    keys = dict(keys)
    file = path.parent / str(keys.pop("config", config))
    if not file.is_file():
        raise ValueError(f"{path}: the config file {file} of variant {name!r} does not exist")
    if imports := keys.get("IMPORTS"):
        check_trusted(
            [str(x) for x in imports] if isinstance(imports, list) else [str(imports)], str(path)
        )
    overrides = tuple(str(word) for pair in keys.items() for word in pair)
    return Variant(name, str(file), overrides)


def run_rows(run: Run, modes: Sequence[InferencePlan]) -> list[dict]:
    """Evaluates a finished run in these modes, or after its last layer if it has no modes.

    The rows are cached as `modes.json` in the folder of the run.
    """
    path = run.folder / "modes.json"
    cached = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = [plan.name for plan in modes]
    if cached.get("modes") != names:
        model = Trainer.build_model(run.cfg).eval()
        WholeModelCheckpointer(model).load(str(run.folder / "model_final.pth"))
        # a variant may have fewer blocks than the mode needs
        num_blocks = model.flow.num_blocks if isinstance(model, FlowMatchingDetector) else math.inf
        plans = [plan for plan in modes if plan.block < num_blocks]
        rows = refinement_rows(run.cfg, model, plans, ap_metrics(run), every_step=False)
        cached = {"modes": names, "rows": rows}
        write_text(path, json.dumps(cached, indent=1) + "\n")
    return cached["rows"]


def ap_metrics(run: Run) -> tuple[str, str]:
    """Returns the metric names of AP50 and AP75; with `TEST.CLASS_SUBSET` those of the subset."""
    suffix = "-subset" if run.cfg.TEST.CLASS_SUBSET else ""
    return f"AP50{suffix}", f"AP75{suffix}"


def ablation_rows(runs: Mapping[str, Sequence[Run]], modes: Sequence[InferencePlan]) -> list[dict]:
    """Computes rows of a result file: mean and standard deviation over the seeds of each metric in
    each mode and of `training_seconds`, and the count `missing_runs`.

    Args:
        runs: the runs of each variant, by name; see `group_by_variant`.
        modes: the inference modes.
    """
    rows = []
    for name, group in runs.items():
        common = {"variant": name} | run_columns(group[0])
        done = [run for run in group if run.done]
        values: dict[tuple, list[float]] = {}
        for row in (row for run in done for row in run_rows(run, modes)):
            key = tuple((column, row[column]) for column in _MEASURED if column in row)
            values.setdefault(key, []).append(row["mean"])
        rows += [common | dict(key) | mean_and_std(means) for key, means in values.items()]
        seconds = [value for run in done if (value := run.training_seconds()) is not None]
        if seconds:
            rows.append(common | {"metric": "training_seconds", **mean_and_std(seconds)})
        rows.append(common | missing_row(group))
    return rows


def group_by_variant(study: Study, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Groups the runs by the name of their variant, whose `slug` is the name of the run."""
    groups = {group[0].name: group for group in group_seeds(runs)}
    return {variant.name: groups[variant.slug] for variant in study.variants}


def ablation_table(
    rows: Sequence[dict], modes: Sequence[InferencePlan], style: str = "simple"
) -> str:
    """Formats the rows as a table with a line per variant: AP75 in the first mode, AP50 in all.

    The accuracy of a model without modes is shown in the columns of the first mode.
    """
    lines = _lines(rows, modes[0])
    columns = [("AP75", modes[0].name), *(("AP50", plan.name) for plan in modes)]
    table = [
        [
            variant,
            *(mean_std_cell(line.get(column)) for column in columns),
            mean_std_cell(line.get(("training_seconds", ""))),
            seeds_cell({"missing_runs": line["missing_runs", ""]}),
        ]
        for variant, line in lines.items()
    ]
    headers = ["variant", *(" ".join(column) for column in columns), "training (s)", "seeds"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def ablation_figure(rows: Sequence[dict], modes: Sequence[InferencePlan]) -> Figure:
    """Draws AP50 and AP75 of every variant in the first mode, with their standard deviation.
    Vertical lines show the first variant."""
    lines = _lines(rows, modes[0])
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for metric, color in (("AP50", "C0"), ("AP75", "C1")):
        cells = [line.get((metric, modes[0].name)) for line in lines.values()]
        points = [(y, row["mean"], row["std"] or 0.0) for y, row in enumerate(cells) if row]
        if not points:
            continue
        heights, means, stds = zip(*points)
        axes.axvline(means[0], color=color, linewidth=0.8, alpha=0.5)
        style = {"fmt": "o", "markersize": 4, "color": color, "label": metric}
        axes.errorbar(means, heights, xerr=stds, **style)
    axes.set_yticks(range(len(lines)), lines)
    axes.invert_yaxis()
    axes.set(xlabel=f"AP in % ({modes[0].name})", xlim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    return figure


def _lines(rows: Sequence[dict], first: InferencePlan) -> dict[str, dict[tuple[str, str], dict]]:
    """Returns the rows of each variant, by metric and mode."""
    lines: dict[str, dict[tuple[str, str], dict]] = {}
    for row in rows:
        lines.setdefault(row["variant"], {})[_cell(row, first)] = row
    return lines


def _cell(row: dict, first: InferencePlan) -> tuple[str, str]:
    """Returns the metric and the mode of a row; the mode is "" for metrics of the training."""
    metric, mode = row["metric"].removesuffix("-subset"), row.get("mode")
    if mode is None:
        return metric, ""
    if mode == "layers":
        return metric, first.name
    return metric, InferencePlan(mode, row["num_steps"], row.get("block", 0)).name
