"""Accuracy after every integration step, in every inference mode (B.1, B.2, Figure 6)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from tqdm import tqdm

from flowdet.data.detection.loaders import build_test_loader
from flowdet.detection import FlowMatchingDetector, SetDetector
from flowdet.detection.set_detector import group_by_size
from flowdet.detection.stability import Refinement
from flowdet.detection.tokens import ImageTokens
from flowdet.evaluation.detection import build_evaluator
from flowdet.experiments.comparison_table import mean_and_std
from flowdet.flow import InferencePlan, solve
from flowdet.reporting.results import method_of

# a walk, and the step after which is decoded (from 1)
Point = tuple[InferencePlan, int]
# what is decoded there: the estimate, and what its scores are multiplied by
Decodable = tuple[Point, Tensor, Tensor | None]


def all_walks(num_blocks: int, max_steps: int) -> list[InferencePlan]:
    """Every inference mode, in 1 to so many steps.

    Raises:
        ValueError: `max_steps` is below 1.
    """
    if max_steps < 1:
        raise ValueError(f"the number of integration steps must be at least 1, got {max_steps}")
    walks = [InferencePlan("single_step", block=block) for block in range(num_blocks)]
    walks += [InferencePlan("ensemble")]
    return walks + [
        InferencePlan(mode, steps)
        for mode in ("multi_step", "multi_step_ensemble")
        for steps in range(1, max_steps + 1)
    ]


def decode_points(
    model: FlowMatchingDetector, batch: int, tokens: ImageTokens, walks: Sequence[InferencePlan]
) -> Iterator[Decodable]:
    """The estimates [B, M, d] after every step of every walk, from one look at the images, and
    what the scores are multiplied by.

    The last one of a walk is what `model.inference` decodes.
    """
    z_0 = model.initial_noise(batch)
    for walk in walks:
        mode, steps, block = walk
        found = solve(model.flow, z_0, tokens, mode, num_steps=steps, block=block, trajectory=True)
        yield from _decodable(model, walk, model.refinement_of(found))


def decode_layers(model: SetDetector, tokens: ImageTokens) -> Iterator[Decodable]:
    """The same for the layers of `BackpropDetector`."""
    refinement = model.refine(tokens, trajectory=True)
    yield from _decodable(model, InferencePlan("layers", len(refinement.estimates)), refinement)


def _decodable(
    model: SetDetector, walk: InferencePlan, refinement: Refinement
) -> Iterator[Decodable]:
    *steps, z_1 = refinement.estimates
    for step, estimate in enumerate(steps, start=1):
        yield (walk, step), estimate, None
    yield (walk, len(refinement.estimates)), z_1, model.stability_factors(refinement)


def _points(
    model: SetDetector, inputs: Sequence[dict], walks: Sequence[InferencePlan]
) -> Iterator[Decodable]:
    tokens = model.encode(inputs)
    if isinstance(model, FlowMatchingDetector):
        return decode_points(model, len(inputs), tokens, walks)
    return decode_layers(model, tokens)


@torch.no_grad()
def refinement_rows(
    cfg: CfgNode,
    model: SetDetector,
    walks: Sequence[InferencePlan],
    metrics: Sequence[str] = ("AP50", "AP75"),
    every_step: bool = True,
) -> list[dict]:
    """Rows of a result file, from one pass over `DATASETS.TEST[0]`.

    Args:
        cfg: resolved, of the model.
        model: in evaluation mode, its weights loaded.
        walks: what is measured of a `FlowMatchingDetector`; of others it is their layers.
        metrics: of the evaluator.
        every_step: measure the walks after each of their steps, not only at their end.
    """
    name = cfg.DATASETS.TEST[0]
    evaluators: dict[Point, DatasetEvaluator] = {}
    for batch in tqdm(build_test_loader(cfg, name), desc="evaluate", unit="batch"):
        for places in group_by_size(batch):
            inputs = [batch[i] for i in places]
            for point, z, confidence in _points(model, inputs, walks):
                walk, step = point
                if step < walk.num_steps and not every_step:
                    continue
                if point not in evaluators:
                    evaluators[point] = build_evaluator(cfg, name)
                    evaluators[point].reset()
                outputs = [{"instances": x} for x in model.detections(z, inputs, confidence)]
                evaluators[point].process(inputs, outputs)
    rows = []
    flow = model.flow if isinstance(model, FlowMatchingDetector) else None
    for (walk, step), evaluator in tqdm(evaluators.items(), desc="average precision"):
        found = evaluator.evaluate()["bbox"]
        common = {"method": method_of(cfg), "dataset": name, "mode": walk.mode}
        t = flow.times(walk.num_steps)[step] if flow else step / walk.num_steps
        common |= {"num_steps": walk.num_steps, "step": step, "t": round(t, 4)}
        if walk.mode == "single_step":
            common["block"] = walk.block
        for metric in metrics:
            # COCO's evaluator gives nan where nothing is found
            if not math.isnan(found[metric]):
                value = {"metric": metric, "mean": round(found[metric], 2), "std": None, "n": 1}
                rows.append(common | value)
    return rows


def mean_over_runs(by_run: Sequence[Sequence[dict]]) -> list[dict]:
    """The rows of several runs as one set: mean and standard deviation over the runs."""
    values: dict[tuple, list[float]] = {}
    for row in itertools.chain.from_iterable(by_run):
        what = tuple((k, v) for k, v in row.items() if k not in ("mean", "std", "n"))
        values.setdefault(what, []).append(row["mean"])
    return [dict(what) | mean_and_std(found) for what, found in values.items()]


def refinement_figure(rows: Sequence[dict], metric: str = "AP50") -> Figure:
    """AP over the time t reached: a panel per mode of many steps, a line per number of steps."""
    rows = [row for row in rows if row["metric"] == metric]
    panels = [
        mode
        for mode in ("multi_step", "multi_step_ensemble", "layers")
        if any(row["mode"] == mode for row in rows)
    ] or ["multi_step"]
    figure = Figure(figsize=(1.6 + 4.2 * len(panels), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, mode in zip(all_axes, panels):
        walks = sorted({row["num_steps"] for row in rows if row["mode"] == mode})
        for place, steps in enumerate(walks):
            points = [
                (row["step"], row["mean"])
                for row in rows
                if row["mode"] == mode and row["num_steps"] == steps
            ]
            color = colormaps["viridis"](0.9 * place / max(len(walks) - 1, 1))
            axes.plot(*zip(*points), marker="o", color=color, label=f"{steps} steps")
        _mark_single_steps(axes, rows)
        axes.set(title=mode, xlabel="integration step", ylabel=metric, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = all_axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=8)
    return figure


def _mark_single_steps(axes, rows: Sequence[dict]) -> None:
    """Level lines of the modes of one step."""
    for row in rows:
        if row["mode"] == "ensemble":
            axes.axhline(row["mean"], color="C1", linestyle="--", label="ensemble")
        elif row["mode"] == "single_step" and row["block"] == 0:
            axes.axhline(row["mean"], color="C2", linestyle=":", label="single_step, block 0")
