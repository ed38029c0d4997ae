"""Draws the measures of representations: three lines over the layers, and a CKA matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowdet.experiments.representation import LAYER_METRICS

# the colors of Okabe and Ito, which color-blind readers can tell apart, without the yellow
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#E69F00")
# markers and line styles tell the lines apart in gray print, and beyond seven lines
_MARKERS = "os^Dv*PX<>"
_STYLES = ("-", "--", "-.", ":")
# the largest numbers of layers whose names fit below a panel, and of rows of the CKA matrix whose
# values and names fit
_MAX_TICKS = 12
_MAX_NUMBERED = 12
_MAX_NAMED = 40


def representation_figure(rows: Sequence[dict]) -> Figure:
    """Draws a panel per metric of the layers, with a line per group of runs, and the CKA matrix.

    A band shows the standard deviation over the seeds. A line has a gap between the layers of the
    backbone and the blocks.

    Args:
        rows: the rows of `layer_rows` and `cka_rows`.
    """
    figure = Figure(figsize=(10, 9), layout="constrained")
    *panels, matrix = figure.subplots(2, 2).flat
    for axes, metric in zip(panels, LAYER_METRICS, strict=True):
        _draw_lines(axes, [row for row in rows if row["metric"] == metric], _layers(rows))
        axes.set_title(LAYER_METRICS[metric], fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    _draw_cka(matrix, [row for row in rows if row["metric"] == "linear_cka"], _layers(rows))
    return figure


def _layers(rows: Sequence[dict]) -> dict[str, list[str]]:
    """Returns the names of the layers by group of runs."""
    layers: dict[str, list[str]] = {}
    for row in rows:
        names = layers.setdefault(row["run"], [])
        if row["metric"] in LAYER_METRICS and row["layer"] not in names:
            names.append(row["layer"])
    return layers


def _draw_lines(axes: Axes, rows: Sequence[dict], layers: dict[str, list[str]]) -> None:
    for index, label in enumerate(layers):
        x, y, deviation = _points([row for row in rows if row["run"] == label])
        color = _COLORS[index % len(_COLORS)]
        marker, style = _MARKERS[index % len(_MARKERS)], _STYLES[index % len(_STYLES)]
        axes.plot(x, y, style, color=color, marker=marker, markersize=6, label=label)
        axes.fill_between(x, y - deviation, y + deviation, color=color, alpha=0.15, linewidth=0)
    axes.grid(alpha=0.3)
    names = next(iter(layers.values()))
    if all(other == names for other in layers.values()) and len(names) <= _MAX_TICKS:
        turned = {"rotation": 45, "ha": "right"} if len(names) > 6 else {}
        axes.set_xticks(range(1, len(names) + 1), names, **turned)
    else:
        axes.set_xlabel("number of the layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(rows: Sequence[dict]) -> np.ndarray:
    """Returns x, y and the standard deviation of each point of a line, [3, points].

    A point of nan interrupts the line between layers of different kinds, such as the last stage of
    the backbone and the first block.
    """
    points, before = [], None
    for row in rows:
        kind = row["layer"].rstrip("0123456789")
        if before not in (None, kind):
            points.append((np.nan, np.nan, np.nan))
        before = kind
        points.append((row["layer_number"], row["mean"], row["std"] or 0))
    return np.array(points, dtype=float).reshape(-1, 3).T


def _draw_cka(axes: Axes, rows: Sequence[dict], layers: dict[str, list[str]]) -> None:
    """Draws the CKA of all pairs of layers, with lines between the groups of runs."""
    cells = [(label, layer) for label, names in layers.items() for layer in names]
    positions = {cell: i for i, cell in enumerate(cells)}
    values = np.full((len(cells), len(cells)), np.nan)
    for row in rows:
        i = positions[row["run"], row["layer"]]
        j = positions[row["other_run"], row["other_layer"]]
        values[i, j] = values[j, i] = row["mean"]
    axes.set_title("linear CKA between layers", fontsize=11)
    axes.set_facecolor("0.85")
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    if len(cells) <= _MAX_NUMBERED:
        _write_numbers(axes, values)
    _name_groups(axes, layers)
    if len(cells) <= _MAX_NAMED:
        names = [layer for _, layer in cells]
        axes.set_xticks(range(len(cells)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(cells)), names, fontsize=7)
    else:
        axes.set(xticks=[], yticks=[])


def _write_numbers(axes: Axes, values: np.ndarray) -> None:
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "black" if value > 0.5 else "white"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)


def _name_groups(axes: Axes, layers: dict[str, list[str]]) -> None:
    """Draws a line between the groups, and writes their labels above and to the right."""
    bounds = list(itertools.accumulate([0, *map(len, layers.values())]))
    for bound in bounds[1:-1]:
        axes.axhline(bound - 0.5, color="white", linewidth=2)
        axes.axvline(bound - 0.5, color="white", linewidth=2)
    centers = [(start + end - 1) / 2 for start, end in itertools.pairwise(bounds)]
    for side, secondary, turn in (
        ("top", axes.secondary_xaxis, 0 if len(layers) <= 3 else 90),
        ("right", axes.secondary_yaxis, 90 if len(layers) <= 3 else 0),
    ):
        outer = secondary(side)
        outer.tick_params(length=0)
        options = {"rotation": turn, "fontsize": 8}
        if side == "top":
            outer.set_xticks(centers, list(layers), **options)
        else:
            outer.set_yticks(centers, list(layers), va="center", **options)
