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

from flowdet.analysis.comparison import Run
from flowdet.analysis.memory import measure_step
from flowdet.analysis.steps import for_measuring, made_up_batch, train_step
from flowdet.engine import build_optimizer


def accuracy_rows(runs: Sequence[Run], metrics: Sequence[str]) -> list[dict]:
    """Rows of a result file: mean and standard deviation over the seeds.

    Runs that are not done count in `missing_runs`; a group without any other has only that row.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.budget, run.method), []).append(run)
    rows = []
    for group in groups.values():
        common = _describe(group[0])
        done = [run.metrics() for run in group if run.done]
        for name in metrics:
            values = [found[name] for found in done if name in found]
            if values:
                rows.append(common | {"metric": name, **mean_and_std(values)})
        missing = {"mean": len(group) - len(done), "std": None, "n": len(group)}
        rows.append(common | {"metric": "missing_runs", **missing})
    return rows


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
            common = _describe(run)
            found = measure_step(run.cfg, budget.batch_size)
            costs = {
                "trained_parameters": _trained_parameters(run.cfg),
                "activation_bytes": found.activation,
                "state_bytes": found.parameter + found.optimizer,
                "step_seconds": round(statistics.median(values), 4),
            }
            for name, value in costs.items():
                rows.append(common | {"metric": name, "mean": value, "std": None, "n": 1})
    return rows


def _trained_parameters(cfg: CfgNode) -> int:
    return sum(p.numel() for p in build_model(cfg).parameters() if p.requires_grad)


def _describe(run: Run) -> dict:
    return {
        "method": run.method,
        "dataset": run.cfg.DATASETS.TEST[0],
        "num_blocks": run.cfg.MODEL.FLOW_DET.NUM_BLOCKS,
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
        batch = made_up_batch(cfg, batch_size)
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
        accuracies = [_with_spread(found.get(name)) for name in metrics]
        costs = [
            _scaled(found, "trained_parameters", 1e-6, 2),
            _scaled(found, "activation_bytes", 2**-20, 1),
            _scaled(found, "state_bytes", 2**-20, 1),
            _scaled(found, "step_seconds", 1000, 0),
        ]
        count = max((found[name]["n"] for name in metrics if name in found), default=0)
        missing = found.get("missing_runs", {}).get("mean", 0)
        seeds = f"{count} ({missing} failed or not run)" if missing else str(count)
        lr = f"{next(iter(found.values()))['base_lr']:.3g}"
        table.append([method, batch, epochs, lr, *accuracies, *costs, seeds])
    headers = [
        *("method", "batch", "epochs", "learning rate", *metrics),
        *("trained parameters (M)", "activations (MiB)", "parameters + optimizer (MiB)"),
        *("step (ms)", "seeds"),
    ]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def _with_spread(row: dict | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.1f}" + ("" if row["std"] is None else f" +- {row['std']:.1f}")


def _scaled(found: dict[str, dict], metric: str, factor: float, digits: int) -> str:
    return f"{found[metric]['mean'] * factor:.{digits}f}" if metric in found else "-"
