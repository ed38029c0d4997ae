"""Table 1: accuracy, memory and step time of the runs of a comparison (5.1)."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from flowdet.engine import build_optimizer
from flowdet.engine.task_builders import task_of
from flowdet.experiments.comparison import Run, over_seeds
from flowdet.experiments.memory import measure_step
from flowdet.experiments.training_steps import for_measuring, synthetic_batch, train_step


def accuracy_rows(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict]:
    """Rows of a result file: mean and standard deviation over the seeds.

    Runs that are not done count in `missing_runs`; a group without any other has only that row.
    """
    rows = []
    for group in over_seeds(runs):
        common = describe(group[0])
        done = [run.metrics() for run in group if run.done]
        for name in metrics:
            values = [found[name] for found in done if name in found]
            if values:
                rows.append(common | {"metric": name, **mean_and_std(values)})
        rows.append(common | missing_row(group))
    return rows


def missing_row(group: Sequence[Run]) -> dict:
    """How many of the runs, which differ in the seed, are not done."""
    count = sum(not run.done for run in group)
    return {"metric": "missing_runs", "mean": count, "std": None, "n": len(group)}


def cost_rows(runs: Sequence[Run]) -> list[dict]:
    """Memory and time of a training step of each method, at each batch size.

    The methods take turns, so that whatever else the machine does meets all of them. Methods of
    which no run is done are left out: their step may not even work.
    """
    rows = []
    for budget in dict.fromkeys(run.budget for run in runs):
        methods = {run.method: run for run in runs if run.budget == budget and run.done}
        cfgs = [for_measuring(run.cfg) for run in methods.values()]
        seconds = interleaved_step_seconds(cfgs, budget.batch_size)
        for run, values in zip(methods.values(), seconds):
            common = describe(run)
            found = measure_step(run.cfg, budget.batch_size)
            costs = {
                "trained_parameters": trained_parameters(run.cfg),
                "activation_bytes": found.activation,
                "state_bytes": found.parameter + found.optimizer,
                "step_seconds": round(statistics.median(values), 4),
            }
            for name, value in costs.items():
                rows.append(common | {"metric": name, "mean": value, "std": None, "n": 1})
    return rows


def trained_parameters(cfg: CfgNode) -> int:
    """How many numbers the training of a config changes."""
    return sum(p.numel() for p in build_model(cfg).parameters() if p.requires_grad)


def describe(run: Run) -> dict:
    """What the rows of a run have in common."""
    return {
        "method": run.method,
        "dataset": run.cfg.DATASETS.TEST[0],
        "num_blocks": task_of(run.cfg).keys(run.cfg).NUM_BLOCKS,
        "batch_size": run.budget.batch_size,
        "epochs": run.budget.epochs,
        "base_lr": run.cfg.SOLVER.BASE_LR,
        **({"classes": list(run.cfg.TEST.CLASS_SUBSET)} if run.cfg.TEST.CLASS_SUBSET else {}),
    }


def mean_and_std(values: Sequence[float]) -> dict:
    """`mean`, `std` (of the sample; None for one value) and `n`."""
    std = round(statistics.stdev(values), 2) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 2), "std": std, "n": len(values)}


def interleaved_step_seconds(
    cfgs: Sequence[CfgNode], batch_size: int, rounds: int = 22
) -> list[list[float]]:
    """Seconds of training steps on made-up images, without data loading; the first two of each
    model, which find everything cold, are left out."""
    steps = []
    for cfg in cfgs:
        torch.manual_seed(0)
        model = build_model(cfg).train()
        batch = synthetic_batch(cfg, batch_size)
        optimizer, amp = build_optimizer(cfg, model), cfg.SOLVER.AMP.ENABLED
        steps.append(functools.partial(train_step, model, batch, optimizer, amp))
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds):
        for step, found in zip(steps, seconds):
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= 2:
                found.append(time.perf_counter() - start)
    return seconds


def comparison_table(rows: Sequence[dict], metrics: Sequence[str], style: str = "simple") -> str:
    """The rows as a table: one line per budget and method.

    Args:
        rows: of `accuracy_rows` and `cost_rows`.
        metrics: the accuracies shown.
        style: of tabulate, e.g. `simple` or `github`.
    """
    lines: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        key = (row["batch_size"], row["epochs"], row["method"])
        lines.setdefault(key, {})[row["metric"]] = row
    table = []
    for (batch, epochs, method), found in lines.items():
        accuracies = [with_spread(found.get(name)) for name in metrics]
        costs = [
            scaled(found, "trained_parameters", 1e-6, 2),
            scaled(found, "activation_bytes", 2**-20, 1),
            scaled(found, "state_bytes", 2**-20, 1),
            scaled(found, "step_seconds", 1000, 0),
        ]
        lr = f"{next(iter(found.values()))['base_lr']:.3g}"
        table.append([method, batch, epochs, lr, *accuracies, *costs, seeds_done(found)])
    headers = [
        *("method", "batch", "epochs", "learning rate", *metrics),
        *("trained parameters (M)", "activations (MiB)", "parameters + optimizer (MiB)"),
        *("step (ms)", "seeds"),
    ]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def with_spread(row: dict | None) -> str:
    """The cell `mean +- std` of a row."""
    if row is None:
        return "-"
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" +- {row['std']:.1f}")


def scaled(found: dict[str, dict], metric: str, factor: float, digits: int) -> str:
    """The cell of one of a line's rows, by their metrics."""
    return f"{found[metric]['mean'] * factor:.{digits}f}" if metric in found else "-"


def seeds_done(found: dict[str, dict]) -> str:
    """The cell that counts the seeds behind a line, of its rows by their metrics."""
    row = found["missing_runs"]
    done = str(row["n"] - row["mean"])
    return f"{done} ({row['mean']} failed or not run)" if row["mean"] else done
