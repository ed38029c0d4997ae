"""Measures the accuracy after every integration step and in every mode (B.1, B.2, Figure 6)."""

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
from flowdet.detection.base_detector import group_by_size
from flowdet.detection.stability import Refinement
from flowdet.detection.tokens import ImageTokens
from flowdet.evaluation.detection import build_evaluator
from flowdet.experiments.comparison_table import mean_and_std
from flowdet.flow import InferencePlan, solve
from flowdet.reporting.results import method_of

# an inference plan, and the number of steps (from 1) after which its estimate is decoded
PlanStep = tuple[InferencePlan, int]
# a plan step, the estimate [B, M, d] after it, and the factors [B, M] of the scores (None for 1)
StepEstimate = tuple[PlanStep, Tensor, Tensor | None]


def all_plans(num_blocks: int, max_steps: int) -> list[InferencePlan]:
    """Returns every inference mode with every block and with 1 to `max_steps` steps.

    Raises:
        ValueError: `max_steps` is below 1.
    """
    if max_steps < 1:
        raise ValueError(f"the number of integration steps must be at least 1, got {max_steps}")
    plans = [InferencePlan("single_step", block=block) for block in range(num_blocks)]
    plans += [InferencePlan("ensemble")]
    return plans + [
        InferencePlan(mode, steps)
        for mode in ("multi_step", "multi_step_ensemble")
        for steps in range(1, max_steps + 1)
    ]


def plan_estimates(
    model: FlowMatchingDetector, batch: int, tokens: ImageTokens, plans: Sequence[InferencePlan]
) -> Iterator[StepEstimate]:
    """Yields the estimates of a flow detector after every step of every plan.

    All plans use the same encoded images. Only the last estimate of a plan has score factors,
    because `model.inference` applies box stability to this one only.

    Args:
        model: a detector in evaluation mode.
        batch: B, the number of images.
        tokens: the encoded images.
        plans: the plans.
    """
    z_0 = model.initial_noise(batch)
    for plan in plans:
        mode, steps, block = plan
        solution = solve(
            model.flow, z_0, tokens, mode, num_steps=steps, block=block, trajectory=True
        )
        yield from _step_estimates(model, plan, model.refinement_of(solution))


def layer_estimates(model: SetDetector, tokens: ImageTokens) -> Iterator[StepEstimate]:
    """Yields the estimates of a `BackpropDetector` after every layer, as a plan named `layers`."""
    refinement = model.refine(tokens, trajectory=True)
    plan = InferencePlan("layers", len(refinement.estimates))
    yield from _step_estimates(model, plan, refinement)


def _step_estimates(
    model: SetDetector, plan: InferencePlan, refinement: Refinement
) -> Iterator[StepEstimate]:
    *steps, z_1 = refinement.estimates
    for step, estimate in enumerate(steps, start=1):
        yield (plan, step), estimate, None
    yield (plan, len(refinement.estimates)), z_1, model.stability_factors(refinement)


def _estimates(
    model: SetDetector, inputs: Sequence[dict], plans: Sequence[InferencePlan]
) -> Iterator[StepEstimate]:
    tokens = model.encode(inputs)
    if isinstance(model, FlowMatchingDetector):
        return plan_estimates(model, len(inputs), tokens, plans)
    return layer_estimates(model, tokens)


@torch.no_grad()
def refinement_rows(
    cfg: CfgNode,
    model: SetDetector,
    plans: Sequence[InferencePlan],
    metrics: Sequence[str] = ("AP50", "AP75"),
    every_step: bool = True,
) -> list[dict]:
    """Evaluates a detector after every step of every plan, in one pass over `DATASETS.TEST[0]`.

    Args:
        cfg: the resolved config of the model.
        model: a detector in evaluation mode, with its weights loaded.
        plans: the plans of a `FlowMatchingDetector`; other detectors are evaluated after every
            layer instead.
        metrics: names of metrics of the evaluator.
        every_step: whether to evaluate after every step of a plan, not only after its last step.

    Returns:
        Rows of a result file.
    """
    dataset = cfg.DATASETS.TEST[0]
    evaluators: dict[PlanStep, DatasetEvaluator] = {}
    for batch in tqdm(build_test_loader(cfg, dataset), desc="evaluate", unit="batch"):
        for indices in group_by_size(batch):
            inputs = [batch[i] for i in indices]
            for plan_step, z, score_factors in _estimates(model, inputs, plans):
                plan, step = plan_step
                if step < plan.num_steps and not every_step:
                    continue
                if plan_step not in evaluators:
                    evaluators[plan_step] = build_evaluator(cfg, dataset)
                    evaluators[plan_step].reset()
                detections = model.detections(z, inputs, score_factors)
                outputs = [{"instances": instances} for instances in detections]
                evaluators[plan_step].process(inputs, outputs)
    rows = []
    flow = model.flow if isinstance(model, FlowMatchingDetector) else None
    for (plan, step), evaluator in tqdm(evaluators.items(), desc="average precision"):
        values = evaluator.evaluate()["bbox"]
        common = {"method": method_of(cfg), "dataset": dataset, "mode": plan.mode}
        t = flow.times(plan.num_steps)[step] if flow else step / plan.num_steps
        common |= {"num_steps": plan.num_steps, "step": step, "t": round(t, 4)}
        if plan.mode == "single_step":
            common["block"] = plan.block
        for metric in metrics:
            # COCO's evaluator returns nan if there are no detections
            if not math.isnan(values[metric]):
                value = {"metric": metric, "mean": round(values[metric], 2), "std": None, "n": 1}
                rows.append(common | value)
    return rows


def mean_over_runs(rows_by_run: Sequence[Sequence[dict]]) -> list[dict]:
    """Combines the rows of several runs into their mean and standard deviation over the runs."""
    values: dict[tuple, list[float]] = {}
    for row in itertools.chain.from_iterable(rows_by_run):
        key = tuple((k, v) for k, v in row.items() if k not in ("mean", "std", "n"))
        values.setdefault(key, []).append(row["mean"])
    return [dict(key) | mean_and_std(means) for key, means in values.items()]


def refinement_figure(rows: Sequence[dict], metric: str = "AP50") -> Figure:
    """Draws AP over the integration step, with a panel per multi-step mode and a line per number of
    steps. Horizontal lines show the one-step modes."""
    rows = [row for row in rows if row["metric"] == metric]
    panels = [
        mode
        for mode in ("multi_step", "multi_step_ensemble", "layers")
        if any(row["mode"] == mode for row in rows)
    ] or ["multi_step"]
    figure = Figure(figsize=(1.6 + 4.2 * len(panels), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, mode in zip(all_axes, panels):
        step_counts = sorted({row["num_steps"] for row in rows if row["mode"] == mode})
        for index, steps in enumerate(step_counts):
            points = [
                (row["step"], row["mean"])
                for row in rows
                if row["mode"] == mode and row["num_steps"] == steps
            ]
            color = colormaps["viridis"](0.9 * index / max(len(step_counts) - 1, 1))
            axes.plot(*zip(*points), marker="o", color=color, label=f"{steps} steps")
        _draw_one_step_modes(axes, rows)
        axes.set(title=mode, xlabel="integration step", ylabel=metric, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = all_axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=8)
    return figure


def _draw_one_step_modes(axes, rows: Sequence[dict]) -> None:
    """Draws the accuracy of `ensemble` and of `single_step` with block 0 as horizontal lines."""
    for row in rows:
        if row["mode"] == "ensemble":
            axes.axhline(row["mean"], color="C1", linestyle="--", label="ensemble")
        elif row["mode"] == "single_step" and row["block"] == 0:
            axes.axhline(row["mean"], color="C2", linestyle=":", label="single_step, block 0")
