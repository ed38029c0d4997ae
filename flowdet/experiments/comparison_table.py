"""Table 1: accuracy, memory and step time of the runs of a comparison (5.1)."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from flowdet.engine import build_optimizer
from flowdet.engine.model_builder import build_model
from flowdet.engine.task_builders import task_of
from flowdet.experiments.comparison import Run, group_seeds
from flowdet.experiments.memory import measure_step
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch, train_step, without_feature_cache
from flowdet.reporting.results import has_blocks


def accuracy_rows(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict]:
    """Computes rows of a result file: mean and standard deviation of each metric over the seeds.

    The row `missing_runs` counts the unfinished runs of a group. It is the only row of a group that
    has no finished run.
    """
    rows = []
    for group in group_seeds(runs):
        common = run_columns(group[0])
        results = [run.metrics() for run in group if run.done]
        for name in metrics:
            values = [result[name] for result in results if name in result]
            if values:
                rows.append(common | {"metric": name, **mean_and_std(values)})
        rows.append(common | missing_row(group))
    return rows


def missing_row(group: Sequence[Run]) -> dict:
    """Counts the unfinished runs of a group, whose runs differ only in their seed, as a row."""
    count = sum(not run.done for run in group)
    return {"metric": "missing_runs", "mean": count, "std": None, "n": len(group)}


def cost_rows(runs: Sequence[Run]) -> list[dict]:
    """Measures memory and time of a training step of each method and budget; returns result rows.

    The timed steps of the methods alternate, so that other load on the machine affects all methods
    alike. Methods without a finished run are left out, because their training step may fail.
    """
    rows = []
    for budget in dict.fromkeys(run.budget for run in runs):
        methods = {run.method: run for run in runs if run.budget == budget and run.done}
        cfgs = [without_feature_cache(run.cfg) for run in methods.values()]
        seconds = interleaved_step_seconds(cfgs, budget.batch_size)
        for run, values in zip(methods.values(), seconds):
            common = run_columns(run)
            memory = measure_step(run.cfg, budget.batch_size)
            costs = {
                "trained_parameters": trained_parameters(run.cfg),
                "activation_bytes": memory.activation,
                "state_bytes": memory.parameter + memory.optimizer,
                "step_seconds": round(statistics.median(values), 4),
            }
            for name, value in costs.items():
                rows.append(common | {"metric": name, "mean": value, "std": None, "n": 1})
    return rows


def trained_parameters(cfg: CfgNode) -> int:
    """Counts the trained parameters (scalars) of the model of a config.

    A model whose parameters are not all trained by gradients has the other ones in its attribute
    `parameters_without_gradient`.
    """
    model = build_model(cfg)
    by_gradient = [p for p in model.parameters() if p.requires_grad]
    others = getattr(model, "parameters_without_gradient", [])
    return sum(p.numel() for p in [*by_gradient, *others])


def run_columns(run: Run) -> dict:
    """Returns the columns that all rows of a run share: method, dataset and schedule.

    Only methods with flow blocks have the column `num_blocks`.
    """
    blocks = {"num_blocks": task_of(run.cfg).keys(run.cfg).NUM_BLOCKS}
    return {
        "method": run.method,
        "dataset": run.cfg.DATASETS.TEST[0],
        **(blocks if has_blocks(run.cfg) else {}),
        "batch_size": run.budget.batch_size,
        "epochs": run.budget.epochs,
        "base_lr": run.cfg.SOLVER.BASE_LR,
        **({"classes": list(run.cfg.TEST.CLASS_SUBSET)} if run.cfg.TEST.CLASS_SUBSET else {}),
    }


def mean_and_std(values: Sequence[float], digits: int = 2) -> dict:
    """Returns `mean`, `std` (the sample standard deviation; None for one value) and `n`.

    Mean and standard deviation are rounded to this number of decimal digits.
    """
    std = round(statistics.stdev(values), digits) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), digits), "std": std, "n": len(values)}


def interleaved_step_seconds(
    cfgs: Sequence[CfgNode], batch_size: int, rounds: int = 20
) -> list[list[float]]:
    """Times training steps on synthetic inputs, without data loading.

    In every round each model takes one step.

    Args:
        cfgs: the resolved configs.
        batch_size: images per step.
        rounds: steps per model, after two steps of warm-up.

    Returns:
        For each model the seconds of each counted step.
    """
    steps = []
    for cfg in cfgs:
        torch.manual_seed(0)
        model = build_model(cfg).train()
        batch = synthetic_batch(cfg, batch_size)
        optimizer, amp = build_optimizer(cfg, model), cfg.SOLVER.AMP.ENABLED
        steps.append(functools.partial(train_step, model, batch, optimizer, amp))
    return interleaved_seconds(steps, rounds, warm_up=2)


def comparison_table(rows: Sequence[dict], metrics: Sequence[str], style: str = "simple") -> str:
    """Formats the rows as a table with one line per budget and method.

    Args:
        rows: the rows of `accuracy_rows` and `cost_rows`.
        metrics: the accuracies to show.
        style: a table format of tabulate, e.g. `simple` or `github`.
    """
    lines: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        key = (row["batch_size"], row["epochs"], row["method"])
        lines.setdefault(key, {})[row["metric"]] = row
    table = []
    for (batch, epochs, method), by_metric in lines.items():
        accuracies = [mean_std_cell(by_metric.get(name)) for name in metrics]
        costs = [
            scaled_cell(by_metric, "trained_parameters", 1e-6, 2),
            scaled_cell(by_metric, "activation_bytes", 2**-20, 1),
            scaled_cell(by_metric, "state_bytes", 2**-20, 1),
            scaled_cell(by_metric, "step_seconds", 1000, 0),
        ]
        lr = f"{next(iter(by_metric.values()))['base_lr']:.3g}"
        table.append([method, batch, epochs, lr, *accuracies, *costs, seeds_cell(by_metric)])
    headers = [
        *("method", "batch", "epochs", "learning rate", *metrics),
        *("trained parameters (M)", "activations (MiB)", "parameters + optimizer (MiB)"),
        *("step (ms)", "seeds"),
    ]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def mean_std_cell(row: dict | None) -> str:
    """Formats a row as the table cell `mean +- std`; `-` without a row."""
    if row is None:
        return "-"
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" +- {row['std']:.1f}")


def scaled_cell(by_metric: dict[str, dict], metric: str, factor: float, digits: int) -> str:
    """Formats a metric as a table cell in another unit; `-` without a row of this metric.

    Args:
        by_metric: the rows of a table line, by metric.
        metric: the metric to show.
        factor: the conversion factor to the other unit.
        digits: the number of decimal digits to show.
    """
    return f"{by_metric[metric]['mean'] * factor:.{digits}f}" if metric in by_metric else "-"


def seeds_cell(by_metric: dict[str, dict]) -> str:
    """Formats the number of finished seeds as a table cell, from the rows of a line by metric."""
    row = by_metric["missing_runs"]
    done = str(row["n"] - row["mean"])
    return f"{done} ({row['mean']} failed or not run)" if row["mean"] else done
