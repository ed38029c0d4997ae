"""The tables of docs/scaling.md, from the rows of benchmarks/scaling.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flowdet.experiments.speed.cost_model import Setting, fitted_models
from flowdet.experiments.speed.tables import markdown_table

TIME, MEMORY = "step_time_ratio", "activation_bytes"


def scaling_tables(rows: Sequence[dict]) -> dict[str, str]:
    """Returns the Markdown tables: measured and predicted costs, and what they consist of."""
    return {"settings": _settings_table(rows), "shares": _shares_table(rows)}


def _settings_table(rows: Sequence[dict]) -> str:
    models = fitted_models(rows)
    measured = {(row["metric"], Setting.of(row)): row for row in rows}
    lines = []
    for (metric, setting), row in measured.items():
        if metric != TIME or setting.method != "flow":
            continue
        line = [setting.num_blocks, setting.num_queries, setting.side, setting.num_classes]
        line += [
            setting.batch_size,
            f"{row['median']:.2f}",
            f"{models[TIME, 'flow'].predict(setting):.2f}",
        ]
        for method in ("flow", "backprop"):
            chosen = replace(setting, method=method)
            predicted = models[MEMORY, method].predict(chosen)
            line += [_mib(measured[MEMORY, chosen]["mean"]), _mib(predicted)]
        lines.append([*map(str, line), "yes" if row["kept_out"] else ""])
    headers = ["T", "M", "side", "classes", "batch", "time", "predicted", "flow, MiB", "predicted"]
    headers += ["backprop, MiB", "predicted", "kept out of the fit"]
    return markdown_table(lines, headers)


def _shares_table(rows: Sequence[dict]) -> str:
    """The shares of the terms in the first setting, in percent."""
    models = fitted_models(rows)
    base = Setting.of(rows[0])
    lines = []
    for title, metric in (("time", TIME), ("activations", MEMORY)):
        shares = [
            models[metric, method].shares(replace(base, method=method))
            for method in ("flow", "backprop")
        ]
        lines += [
            [title, name, *(f"{100 * share[name]:.0f} %" for share in shares)] for name in shares[0]
        ]
    return markdown_table(lines, ["cost", "term", "flow", "backprop"])


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f}"
