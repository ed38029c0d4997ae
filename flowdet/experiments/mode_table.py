"""Table 3: accuracy of every inference mode, by backbone, topology and recipe (5.4)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from tabulate import tabulate

from flowdet.experiments.comparison import Run, over_seeds
from flowdet.experiments.comparison_table import (
    describe,
    mean_and_std,
    missing_row,
    scaled,
    seeds_done,
    trained_parameters,
    with_spread,
)
from flowdet.reporting.results import backbone_of, method_of

# what tells the rows of one run apart, see `result_rows`
_ROW_KEYS = ("weights", "metric", "mode", "block", "num_steps")


def place_of(cfg: CfgNode) -> dict[str, str]:
    """Where in the table a classifier is: `backbone`, `topology` and `method`."""
    return {
        "backbone": backbone_of(cfg),
        "topology": cfg.MODEL.FLOW_CLS.TOPOLOGY,
        "method": method_of(cfg),
    }


def mode_rows(runs: Sequence[Run]) -> list[dict]:
    """Rows of a result file: mean and standard deviation over the seeds.

    One for each metric of each inference mode, with `"weights": "ema"` for the average of the
    weights; and for each group `missing_runs`, and `trained_parameters` and `training_seconds` if
    any of its runs is done.
    """
    rows = []
    for group in over_seeds(runs):
        common = describe(group[0]) | place_of(group[0].cfg)
        done = [run for run in group if run.done]
        rows += [common | row for row in _accuracy_rows(done) + _cost_rows(done)]
        rows.append(common | missing_row(group))
    return rows


def _accuracy_rows(done: Sequence[Run]) -> list[dict]:
    values: dict[tuple, list[float]] = {}
    for row in (row for run in done for row in run.rows()):
        # the configured mode has a row under its own name, too
        if row["mode"] != "default":
            key = tuple((name, row[name]) for name in _ROW_KEYS if name in row)
            values.setdefault(key, []).append(row["mean"])
    return [dict(key) | mean_and_std(found) for key, found in values.items()]


def _cost_rows(done: Sequence[Run]) -> list[dict]:
    if not done:
        return []
    count = trained_parameters(done[0].cfg)
    rows = [{"metric": "trained_parameters", "mean": count, "std": None, "n": 1}]
    seconds = [found for run in done if (found := run.training_seconds()) is not None]
    if seconds:
        rows.append({"metric": "training_seconds", **mean_and_std(seconds)})
    return rows


def mode_table(
    rows: Sequence[dict], weights: str = "raw", style: str = "simple", metric: str = "top1"
) -> str:
    """The rows as a table: one line per backbone, topology and method.

    Args:
        rows: of `mode_rows`.
        weights: `raw`, or `ema` for the average of the weights where there is one.
        style: of tabulate, e.g. `simple` or `github`.
        metric: the accuracy shown.
    """
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        lines.setdefault((row["backbone"], row["topology"], row["method"]), []).append(row)
    table = []
    for place, found in lines.items():
        count = found[0]["num_blocks"]
        shown = weights if weights in averages_of(found) else "raw"
        cells = {_cell(row): row for row in found if row["metric"] == metric and _of(row, shown)}
        accuracies = [with_spread(cells.get(cell)) for cell in _columns(count).values()]
        others = {row["metric"]: row for row in found if "mode" not in row}
        parameters = scaled(others, "trained_parameters", 1e-6, 2)
        about = [found[0]["epochs"], parameters, seeds_done(others)]
        table.append([*place, count, shown, *accuracies, *about])
    headers = ["backbone", "topology", "method", "T", "weights", *_columns(0)]
    headers += ["epochs", "trained parameters (M)", "seeds"]
    return tabulate(table, headers, tablefmt=style, disable_numparse=True)


def averages_of(rows: Sequence[dict]) -> set[str]:
    """Which averages of weights the rows tell of: `{"ema"}` or none."""
    return {row["weights"] for row in rows if "weights" in row}


def _of(row: dict, weights: str) -> bool:
    return row.get("weights", "raw") == weights


def _cell(row: dict) -> tuple[str, int | None]:
    """A row's inference mode, and the block or the number of steps that it depends on."""
    return row["mode"], row.get("block", row.get("num_steps"))


def _columns(count: int) -> dict[str, tuple[str, int | None]]:
    """What the columns show of a model of so many blocks."""
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
