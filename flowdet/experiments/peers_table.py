"""Tables and figure of a comparison of detectors: accuracy over budgets, costs, training curves."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from flowdet.experiments.comparison_table import mean_std_cell, scaled_cell, seeds_cell
from flowdet.experiments.recorded_runs import RecordedRun
from flowdet.experiments.run_record import RunRecord, TableLine

_LINE_STYLES = ("-", "--", ":", "-.")


def peers_table(record: RunRecord, metrics: Sequence[str], style: str = "simple") -> str:
    """Formats the results as a table with one line per budget and method.

    Args:
        record: the content of a result file.
        metrics: the accuracies to show.
        style: a table format of tabulate, e.g. `simple` or `github`.
    """
    table = []
    for line in sorted_lines(record):
        rows = line.rows(record.seeds_of(line.run))
        by_metric = {row["metric"]: row for row in [*record.costs.get(line.method, ()), *rows]}
        columns = line.columns
        measured = "" if line.seconds_per_epoch is None else f"{line.seconds_per_epoch:g}"
        table.append(
            [
                *(line.budget, line.method, columns["epochs"], f"{columns['base_lr']:.3g}"),
                *(mean_std_cell(by_metric.get(name)) for name in metrics),
                *(mean_std_cell(by_metric.get("train_seconds")), measured),
                scaled_cell(by_metric, "trained_parameters", 1e-6, 2),
                scaled_cell(by_metric, "activation_bytes", 2**-20, 1),
                _inference_cell(by_metric.get("ms_per_image")),
                seeds_cell(by_metric),
            ]
        )
    headers = [
        *("budget", "method", "epochs", "learning rate", *metrics, "training (s)"),
        *("s per epoch of the first runs", "trained parameters (M)", "activations (MiB)"),
        *("inference (ms per image)", "seeds"),
    ]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def _inference_cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return f"{row['median']:.1f}" + (" (untrained)" if row["weights"] == "initial" else "")


def search_table(record: RunRecord, metric: str, style: str = "simple") -> str:
    """Formats the learning-rate searches: a line per method, a column per value; "" without any.

    Args:
        record: the content of a result file.
        metric: the accuracy by which the learning rates were chosen.
        style: a table format of tabulate, e.g. `simple` or `github`.
    """
    rows = record.searches.values()
    rates = sorted({rate for row in rows for rate in row["searched"]})
    table = []
    for row in rows:
        values = dict(zip(row["searched"], row[f"searched_{metric}"]))
        cells = [f"{values[rate]:.1f}" if rate in values else "-" for rate in rates]
        table.append([row["method"], row["epochs"], *cells, _best(row["mean"], values)])
    headers = ["method", "epochs", *(f"{metric} with {rate:.3g}" for rate in rates), "best"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True) if table else ""


def _best(best: float, searched: Collection[float]) -> str:
    """Returns the best learning rate; at the end of those searched, another may be better."""
    ends = {min(searched): "lowest", max(searched): "highest"}
    edge = f" (the {ends[best]} searched)" if best in ends and len(searched) > 1 else ""
    return f"{best:.3g}{edge}"


def sorted_lines(record: RunRecord) -> list[TableLine]:
    """Returns the table's lines: budgets in epochs first, each from short to long."""

    def order(line: TableLine) -> tuple[str, float]:
        number, unit = line.budget.split()
        return unit, float(number)

    return sorted(record.lines.values(), key=order)


def peers_figure(record: RunRecord, metrics: Sequence[str]) -> Figure:
    """Draws the accuracies over the seconds of training: a panel per metric, a color per method and
    a line style per budget. A curve is the mean over the seeds."""
    lines = [line for line in sorted_lines(record) if record.seeds_of(line.run)]
    methods = list(dict.fromkeys(line.method for line in lines))
    budgets = list(dict.fromkeys(line.budget for line in lines))
    figure = Figure(figsize=(5.2 * len(metrics), 4.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
        for line in lines:
            seconds, values = mean_curve(record.seeds_of(line.run), metric)
            axes.plot(
                seconds,
                values,
                color=f"C{methods.index(line.method)}",
                linestyle=_LINE_STYLES[budgets.index(line.budget) % len(_LINE_STYLES)],
                marker="o",
                markersize=3,
                label=f"{line.method}, {line.budget}",
            )
        axes.set(xlabel="seconds of training", ylabel=metric)
        axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=7)
    return figure


def mean_curve(runs: Sequence[RecordedRun], metric: str) -> tuple[list[float], list[float]]:
    """Returns the mean seconds and values of a metric during the training, over the seeds.

    Runs that were evaluated after other iterations than the first run are left out.

    Args:
        runs: the finished runs of a table line.
        metric: an accuracy.
    """
    rows = [row for run in runs for row in run.rows if row["metric"] == metric and "curve" in row]
    if not rows:
        return [], []
    rows = [row for row in rows if row["curve_iterations"] == rows[0]["curve_iterations"]]
    seconds, values = (
        np.mean([row[key] for row in rows], axis=0) for key in ("curve_seconds", "curve")
    )
    return seconds.tolist(), values.tolist()
