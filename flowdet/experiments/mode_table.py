"""Table 3: accuracy of every inference mode, by backbone, topology and method (5.4)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from tabulate import tabulate

from flowdet.experiments.comparison import Run, group_seeds
from flowdet.experiments.comparison_table import (
    mean_and_std,
    mean_std_cell,
    missing_row,
    run_columns,
    scaled_cell,
    seeds_cell,
    trained_parameters,
)
from flowdet.reporting.results import backbone_of, has_blocks, method_of

# the columns that distinguish the rows of one run, see `result_rows`
_ROW_KEYS = ("weights", "metric", "mode", "block", "num_steps")


def line_key(cfg: CfgNode) -> dict[str, str]:
    """Returns the key of a classifier's table line: its `backbone`, `topology` and `method`.

    Only methods with flow blocks have a topology.
    """
    topology = {"topology": cfg.MODEL.FLOW_CLS.TOPOLOGY} if has_blocks(cfg) else {}
    return {"backbone": backbone_of(cfg), **topology, "method": method_of(cfg)}


def mode_rows(runs: Sequence[Run], *, default_mode: bool = False) -> list[dict]:
    """Computes rows of a result file: mean and standard deviation over the seeds.

    A group of runs that differ only in their seed has one row per metric and inference mode, and a
    row `missing_runs`. Rows with `"weights": "ema"` are results of the averaged weights. If any of
    its runs is finished, the group also has the rows `trained_parameters` and `training_seconds`.

    Args:
        runs: the runs, finished or not.
        default_mode: whether the results of the configured mode are also given under the name
            `default`.
    """
    rows = []
    for group in group_seeds(runs):
        common = run_columns(group[0]) | line_key(group[0].cfg)
        done = [run for run in group if run.done]
        rows += [common | row for row in _accuracy_rows(done, default_mode) + _cost_rows(done)]
        rows.append(common | missing_row(group))
    return rows


def _accuracy_rows(done: Sequence[Run], default_mode: bool) -> list[dict]:
    values: dict[tuple, list[float]] = {}
    for row in (row for run in done for row in run.rows()):
        # the configured mode also has a row under its own name
        if default_mode or row["mode"] != "default":
            key = tuple((name, row[name]) for name in _ROW_KEYS if name in row)
            values.setdefault(key, []).append(row["mean"])
    return [dict(key) | mean_and_std(means) for key, means in values.items()]


def _cost_rows(done: Sequence[Run]) -> list[dict]:
    if not done:
        return []
    count = trained_parameters(done[0].cfg)
    rows = [{"metric": "trained_parameters", "mean": count, "std": None, "n": 1}]
    seconds = [value for run in done if (value := run.training_seconds()) is not None]
    if seconds:
        rows.append({"metric": "training_seconds", **mean_and_std(seconds)})
    return rows


def mode_table(
    rows: Sequence[dict], weights: str = "raw", style: str = "simple", metric: str = "top1"
) -> str:
    """Formats the rows as a table with one line per backbone, topology and method.

    Args:
        rows: the rows of `mode_rows`.
        weights: `raw`, or `ema` for the averaged weights of the models that have them.
        style: a table format of tabulate, e.g. `simple` or `github`.
        metric: the accuracy to show.
    """
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        lines.setdefault((row["backbone"], row["topology"], row["method"]), []).append(row)
    table = []
    for key, line in lines.items():
        count = line[0]["num_blocks"]
        shown = weights if weights in averaged_weights(line) else "raw"
        cells = {
            _mode_and_number(row): row
            for row in line
            if row["metric"] == metric and row.get("weights", "raw") == shown
        }
        accuracies = [mean_std_cell(cells.get(cell)) for cell in _columns(count).values()]
        others = {row["metric"]: row for row in line if "mode" not in row}
        parameters = scaled_cell(others, "trained_parameters", 1e-6, 2)
        training = [line[0]["epochs"], parameters, seeds_cell(others)]
        table.append([*key, count, shown, *accuracies, *training])
    headers = ["backbone", "topology", "method", "T", "weights", *_columns(0)]
    headers += ["epochs", "trained parameters (M)", "seeds"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def averaged_weights(rows: Sequence[dict]) -> set[str]:
    """Returns the kinds of averaged weights in the rows: `{"ema"}`, or an empty set."""
    return {row["weights"] for row in rows if "weights" in row}


def _mode_and_number(row: dict) -> tuple[str, int | None]:
    """Returns the inference mode of a row, and its block or number of steps (None without them)."""
    return row["mode"], row.get("block", row.get("num_steps"))


def _columns(count: int) -> dict[str, tuple[str, int | None]]:
    """Returns mode and number (see `_mode_and_number`) of each column, for `count` = T blocks."""
    return {
        "probe": ("probe", None),
        "head": ("head", None),
        "single step, last block": ("single_step", count - 1),
        "ensemble": ("ensemble", None),
        "multi-step 1": ("multi_step", 1),
        "multi-step 2": ("multi_step", 2),
        "multi-step T": ("multi_step", count),
        "multi-step 2T": ("multi_step", 2 * count),
        "multi-step ensemble T": ("multi_step_ensemble", count),
    }
