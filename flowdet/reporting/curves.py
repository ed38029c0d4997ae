"""Plots loss and accuracy over the epochs of one or several runs (Figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowdet.config import flat_items
from flowdet.engine.task_builders import task_of
from flowdet.reporting.results import backbone_of, method_of
from flowdet.reporting.runs import IRRELEVANT_KEYS, read_metrics, read_run_config


def group_runs(folders: Sequence[str | Path]) -> dict[str, list[tuple[Path, CfgNode]]]:
    """Groups the runs that differ only in their seed.

    Args:
        folders: the OUTPUT_DIRs of the runs.

    Returns:
        The groups by label. A group has the folder and the config of each of its runs.

    Raises:
        FileNotFoundError: a folder is not a run.
        ValueError: two runs of a group have the same seed, or a folder is given twice.
    """
    groups: dict[tuple, list[tuple[Path, CfgNode]]] = {}
    for folder in map(Path, folders):
        cfg = read_run_config(folder)
        key = tuple(
            (name, repr(value))
            for name, value in flat_items(cfg)
            if not isinstance(value, CfgNode) and name not in ("SEED", *IRRELEVANT_KEYS)
        )
        group = groups.setdefault(key, [])
        for other_folder, other_cfg in group:
            if other_cfg.SEED == cfg.SEED:
                raise ValueError(
                    f"{other_folder} and {folder} have the same config and seed: leave out one"
                )
        group.append((folder, cfg))
    return _label_groups(list(groups.values()))


def _label_groups(
    groups: list[list[tuple[Path, CfgNode]]],
) -> dict[str, list[tuple[Path, CfgNode]]]:
    """Labels the groups by method, by method and backbone, by method and batch size, or by the name
    or path of the folder of their first run.

    It uses the first of these that gives all groups different labels.
    """
    firsts = [group[0] for group in groups]
    candidates = [
        [method_of(cfg) for _, cfg in firsts],
        [f"{method_of(cfg)}, {backbone_of(cfg)}" for _, cfg in firsts],
        [f"{method_of(cfg)}, batch {cfg.SOLVER.IMS_PER_BATCH}" for _, cfg in firsts],
        [folder.name for folder, _ in firsts],
        [str(folder) for folder, _ in firsts],
    ]
    labels = next(x for x in candidates if len(set(x)) == len(x))
    return dict(zip(labels, groups))


def curve_rows(groups: dict[str, list[tuple[Path, CfgNode]]], metrics: Sequence[str]) -> list[dict]:
    """Computes rows of a result file: mean, minimum and maximum of each metric over the seeds of a
    group, at each iteration.

    Args:
        groups: the groups of runs, see `group_runs`.
        metrics: keys of `metrics.json`, e.g. `total_loss`, `bbox/AP50`.

    Raises:
        FileNotFoundError: a run has no `metrics.json`.
        ValueError: no run of a group has one of the metrics, and the message lists the available
            ones; or a `metrics.json` has no valid record.
    """
    rows = []
    for label, runs in groups.items():
        cfg = runs[0][1]
        records = [read_metrics(folder) for folder, _ in runs]
        common = {
            "run": label,
            "method": method_of(cfg),
            "dataset": next(iter(cfg.DATASETS.TEST), ""),
        }
        for metric in metrics:
            series = [metric_series(run, metric, cfg.SOLVER.MAX_ITER) for run in records]
            if not any(series):
                known = sorted({key for run in records for r in run for key in r})
                raise ValueError(
                    f"{runs[0][0]} has no metric {metric!r} in metrics.json, only {known}"
                )
            for iteration, values in _shared_points(series):
                rows.append(
                    common
                    | {
                        "metric": metric,
                        "iteration": iteration,
                        "epoch": epoch_of(iteration, cfg),
                        "mean": round(float(np.mean(values)), 4),
                        "min": round(min(values), 4),
                        "max": round(max(values), 4),
                        "n": len(values),
                    }
                )
    return rows


def metric_series(records: Sequence[dict], metric: str, last: int) -> dict[int, float]:
    """Returns the values of a metric by the number of finished iterations.

    Args:
        records: the records of a run, see `read_metrics`.
        metric: a key of the records.
        last: the number of iterations of the training.
    """
    # the evaluation after the training is recorded under the next iteration
    return {min(r["iteration"] + 1, last): r[metric] for r in records if metric in r}


def _shared_points(series: Sequence[dict[int, float]]) -> Iterator[tuple[int, list[float]]]:
    """Yields the iterations for which all runs that have got so far have a value, and the values.

    The other iterations are left out, because a mean over only some of the runs would jump.
    """
    for iteration in sorted(set().union(*series)):
        running = [values for values in series if values and max(values) >= iteration]
        shared = [values[iteration] for values in running if iteration in values]
        if len(shared) == len(running):
            yield iteration, shared


def epoch_of(iteration: int, cfg: CfgNode) -> float | None:
    """Converts an iteration to a number of epochs; None if `ITERS_PER_EPOCH` is not set."""
    per_epoch = task_of(cfg).keys(cfg).ITERS_PER_EPOCH
    return round(iteration / per_epoch, 3) if per_epoch else None


def curve_figure(rows: Sequence[dict]) -> Figure:
    """Draws a panel per metric with a line per group. A band shows the minimum and maximum over the
    seeds."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    labels = list(dict.fromkeys(row["run"] for row in rows))
    unit = "epoch" if all(row["epoch"] is not None for row in rows) else "iteration"
    figure = Figure(figsize=(4.8 * len(metrics), 3.8), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for label in labels:
            line = [row for row in rows if (row["run"], row["metric"]) == (label, metric)]
            x = [row[unit] for row in line]
            marker = "o" if len(x) < 40 else ""
            (drawn,) = axes.plot(x, [row["mean"] for row in line], marker=marker, label=label)
            band = [[row[end] for row in line] for end in ("min", "max")]
            axes.fill_between(x, *band, color=drawn.get_color(), alpha=0.2, linewidth=0)
        axes.set(xlabel=unit, ylabel=metric.removeprefix("bbox/"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
