"""Images per second over the batch size and over the image size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from flowdet.experiments.speed.inference import backbone_call, with_plan
from flowdet.experiments.speed.setup import build_detector, spread, with_size
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch

PLANS = ("single_step", "default")
SIDE = 256


def throughput_rows(
    cfg: CfgNode, batch_sizes: Sequence[int], sides: Sequence[int], rounds: int
) -> list[dict]:
    """Measures the backbone and two plans: every batch size at 256 pixels, every side at batch 1.

    Args:
        cfg: the config of a FlowMatchingDetector, see `bench_config`.
        batch_sizes: images per call.
        sides: heights and widths of the images, in pixels.
        rounds: measurements.
    """
    models = {plan: build_detector(with_plan(cfg, plan)) for plan in PLANS}
    rows = []
    for size, side in [(size, SIDE) for size in batch_sizes] + [(1, side) for side in sides]:
        batch = synthetic_batch(with_size(cfg, side), size)
        calls = {"backbone": backbone_call(models[PLANS[0]], batch)}
        calls |= {plan: partial(model, batch) for plan, model in models.items()}
        with torch.no_grad():
            durations = interleaved_seconds(list(calls.values()), rounds, warm_up=1)
        for name, values in zip(calls, durations):
            columns = {"part": "throughput", "method": name, "batch_size": size, "side": side}
            rates = [size / x for x in values]
            rows.append(columns | {"metric": "images_per_second"} | spread(rates))
    return rows


def throughput_figure(rows: Sequence[dict]) -> Figure:
    """Draws the images per second over the batch size, and over the image size at batch 1."""
    rows = [row for row in rows if row["part"] == "throughput"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    batch_axes, side_axes = figure.subplots(1, 2)
    panels = [
        (batch_axes, "batch_size", [row for row in rows if row["side"] == SIDE]),
        (side_axes, "side", [row for row in rows if row["batch_size"] == 1]),
    ]
    for axes, column, chosen in panels:
        for method in dict.fromkeys(row["method"] for row in chosen):
            # a setting that is in both lists is measured twice: the last one counts
            points = {row[column]: row for row in chosen if row["method"] == method}
            x = sorted(points)
            axes.plot(x, [points[value]["median"] for value in x], marker="o", label=method)
            low, high = ([points[value][name] for value in x] for name in ("low", "high"))
            axes.fill_between(x, low, high, alpha=0.2)
        axes.set(xscale="log", yscale="log", ylabel="images per second")
        axes.set_xticks(sorted({row[column] for row in chosen}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    batch_axes.set(xlabel=f"images per batch, {SIDE} x {SIDE} pixels")
    side_axes.set(xlabel="height and width of an image (pixels), batch 1")
    return figure
