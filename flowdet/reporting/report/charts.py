"""Draws the curves of a run as SVG in the text color of the page."""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowdet.reporting.curves import epoch_of, metric_series
from flowdet.reporting.report.evaluations import MetricGroup

# colors that are visible on white and on black
COLORS = ("#2f81f7", "#e8730c", "#1a9d68", "#d6409f", "#9466ff", "#a98600", "#0e95b5", "#e5484d")
STYLES = ("-", "--", ":")
# curves with more points are averaged in this number of bins
MAX_POINTS = 200
# the longest labels in letters for which a legend has room in two columns, and in one
_TWO_COLUMNS, _ONE_COLUMN = 26, 56
# a placeholder that is replaced by the text color of the page
_TEXT_COLOR = "#010203"
_TEXT_COLOR_SETTINGS = dict.fromkeys(
    ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), _TEXT_COLOR
)

# the values of each line by the number of finished iterations, by label of the line
Series = dict[str, dict[int, float]]


@dataclass(frozen=True)
class Chart:
    """A figure of the page.

    Attributes:
        title: the title.
        description: the alternative text for screen readers.
        svg: the figure.
    """

    title: str
    description: str
    svg: Markup


def charts(cfg: CfgNode, records: Sequence[dict], groups: Sequence[MetricGroup]) -> list[Chart]:
    """Draws all charts for which the records contain values.

    Args:
        cfg: the config of the run.
        records: the records of its `metrics.json`, see `read_metrics`.
        groups: the metric groups of its evaluations, see `metric_groups`.
    """
    last = cfg.SOLVER.MAX_ITER

    def series(labels: dict[str, str]) -> Series:
        lines = {label: metric_series(records, key, last) for key, label in labels.items()}
        return {label: values for label, values in lines.items() if values}

    names = sorted({key for record in records for key in record})
    rates = {"lr/rest": "all but the backbone", "lr/backbone": "backbone"}
    lines_by_title = {
        "Loss": series({"total_loss": "total"}),
        "Loss per block": _block_losses(records, last),
        "IoU of matched boxes, per block": series(_block_labels(names, "matched_iou")),
        "Accuracy of matched classes, per block": series(_block_labels(names, "class_accuracy")),
        "Training accuracy, per block": series(_block_labels(names, "accuracy")),
        "Average precision on the test images": series(
            _metric_labels(names, groups, ("AP", "AP50", "AP75"))
        ),
        "Top-1 on the test images": series(_metric_labels(names, groups, ("top1",))),
        "Learning rate": series(rates) or series({"lr": "largest group"}),
    }
    return [
        _chart(cfg, f"c{i}", title, lines)
        for i, (title, lines) in enumerate(lines_by_title.items())
        if lines
    ]


def _block_labels(names: Sequence[str], name: str) -> dict[str, str]:
    """Returns the labels of the keys `block<k>/NAME`, by key."""
    matches = (re.fullmatch(rf"block(\d+)/{name}", key) for key in names)
    numbers = sorted(int(match[1]) for match in matches if match)
    return {f"block{k}/{name}": f"block {k}" for k in numbers}


def _block_losses(records: Sequence[dict], last: int) -> Series:
    """Sums the losses of each block over the terms that the model also returns as `loss_*`."""
    summed: Series = {}
    for record in records:
        parts = [key.removeprefix("loss_") for key in record if key.startswith("loss_")]
        for k in itertools.count():
            values = [
                record[key] for key in (f"block{k}/{part}" for part in parts) if key in record
            ]
            if not values:
                break
            line = summed.setdefault(f"block {k}", {})
            line[min(record["iteration"] + 1, last)] = sum(values)
    return summed


def _metric_labels(
    names: Sequence[str], groups: Sequence[MetricGroup], metrics: Sequence[str]
) -> dict[str, str]:
    """Returns the labels of the keys of these metrics, by key; `top1` includes `top1-MODE`."""
    labels = {}
    for group in groups:
        for key in names:
            name, _, mode = key.removeprefix(group.prefix).partition("-")
            if not key.startswith(group.prefix) or name not in metrics or (mode and name != "top1"):
                continue
            label = mode or name.replace("top1", "configured mode")
            labels[key] = f"{label}, {group.label}" if group.label else label
    return labels


def _chart(cfg: CfgNode, name: str, title: str, lines: Series) -> Chart:
    epochs = all(epoch_of(i, cfg) is not None for line in lines.values() for i in line)
    points = {}
    for label, line in lines.items():
        x = [epoch_of(i, cfg) if epochs else i for i in line]
        points[label] = _thinned(np.array([x, list(line.values())], dtype=float))
    svg = line_svg(points, "epoch" if epochs else "iteration", name)
    last_values = ", ".join(f"{label} {y[1, -1]:.4g}" for label, y in points.items())
    return Chart(title, f"{title}. Last values: {last_values}.", svg)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Sorts points [2, N] by x, and averages them in `MAX_POINTS` bins if there are more."""
    points = points[:, points[0].argsort()]
    if points.shape[1] <= MAX_POINTS:
        return points
    return np.stack([part.mean(axis=1) for part in np.array_split(points, MAX_POINTS, axis=1)], 1)


def line_svg(
    points: dict[str, np.ndarray],
    unit: str,
    name: str,
    y_label: str = "",
    y_limits: tuple[float, float] | None = None,
) -> Markup:
    """Draws a line chart as SVG for embedding in a page, whose text color and font it takes.

    Args:
        points: x and y of the N points of each line, [2, N], by label.
        unit: the label of the x axis, such as `epoch`.
        name: the name of the figure, which must be unique in the page.
        y_label: the label of the y axis; "" for none.
        y_limits: the range of the y axis; None for that of the points.
    """
    buffer = io.StringIO()
    with rc_context(_TEXT_COLOR_SETTINGS | {"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = _line_figure(points, unit, y_label, y_limits)
        with warnings.catch_warnings():
            # the browser draws the texts, with its own fonts
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(buffer, format="svg", transparent=True)
    return _cleaned(buffer.getvalue(), name)


def _line_figure(
    points: dict[str, np.ndarray],
    unit: str,
    y_label: str,
    y_limits: tuple[float, float] | None,
) -> Figure:
    columns = 2 if max(map(len, points)) <= _TWO_COLUMNS else 1
    # in inches; the height depends on the legend
    height = 2.7 + 0.17 * math.ceil(len(points) / columns)
    figure = Figure(figsize=(4.6, height), layout="constrained")
    axes = figure.subplots()
    looks = [(color, style) for style in STYLES for color in COLORS]
    for (label, (x, y)), (color, style) in zip(points.items(), itertools.cycle(looks)):
        marker = "o" if len(x) < 15 else ""
        axes.plot(x, y, color=color, linestyle=style, marker=marker, markersize=3, label=label)
    axes.set(xlabel=unit, ylabel=y_label, ylim=y_limits)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.grid(alpha=0.25, color=_TEXT_COLOR)
    axes.spines[["top", "right"]].set_visible(False)
    if len(points) > 1:
        # handles and labels are given: matplotlib leaves out labels that begin with "_"
        legend = figure.legend(
            axes.lines,
            [_shortened(label) for label in points],
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=8,
        )
        for text in legend.get_texts():
            # a "$" in a class name does not start a formula
            text.set_parse_math(False)
    return figure


def _shortened(label: str) -> str:
    """Leaves out the middle of a long label. Its end can be the AP of a class."""
    if len(label) <= _ONE_COLUMN:
        return label
    half = (_ONE_COLUMN - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def _cleaned(text: str, name: str) -> Markup:
    """Prepares an SVG of matplotlib for a page with several figures: removes header, metadata and
    size, and prefixes every id with `name`."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r' (xmlns|xmlns:xlink|version|width|height)="[^"]*"', "", head)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", f"{head}>{rest}")
    return Markup(text.replace(_TEXT_COLOR, "currentColor"))
