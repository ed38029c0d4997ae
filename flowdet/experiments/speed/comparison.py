"""Says what is slower, or needs more memory, than in an earlier result file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

# Times in ms and images per second depend on the machine and its load: they are not compared.
WORSE_IF_HIGHER = (
    "inference_ratio_to_backbone",
    "step_time_ratio_to_backprop",
    "parameters",
    "peak_resident_bytes",
    "peak_allocated_bytes",
)
WORSE_IF_LOWER = ("inference_ratio_to_flow", "loader_ratio_to_step")
_STATISTICS = ("mean", "std", "median", "low", "high", "n")
# a change of fewer percent is not reported, nor one of single values such as a memory
LEAST_CHANGE = 2.0


def read_rows(path: Path) -> list[dict]:
    """Reads the rows of a result file.

    Raises:
        ValueError: it is not a result file.
    """
    return _read(path)["rows"]


def read_earlier(path: Path, config: str) -> list[dict]:
    """Reads the rows of an earlier result of benchmarks/bench.py.

    Args:
        path: the file.
        config: the config of the flow detector that is measured now. Rows do not name it.

    Raises:
        ValueError: it is not such a file, or of another config.
    """
    content = _read(path)
    rows, earlier = content["rows"], str(content.get("config")).split(", ")[0]
    if not all({"part", "metric", "mean"} <= row.keys() for row in rows):
        raise _not_a_result(path)
    if earlier != config:
        raise ValueError(
            f"{path} was measured with --config-file {earlier}, and this run has {config}: use the "
            "same config to compare"
        )
    return rows


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not_a_result(path) from error
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _not_a_result(path)
    return content


def _not_a_result(path: Path) -> ValueError:
    return ValueError(f"{path} is not a result file of this command")


def compare(rows: Sequence[dict], earlier: Sequence[dict]) -> tuple[list[str], int]:
    """Compares rows with those of an earlier measurement of the same settings.

    A row is worse if its median is worse by at least `LEAST_CHANGE` percent and the ranges between
    the quartiles of the two measurements do not overlap.

    Returns:
        One line for each worse row; and the number of rows that were compared.
    """
    by_key = {_key(row): row for row in earlier}
    pairs = [(row, by_key[_key(row)]) for row in rows if _key(row) in by_key]
    pairs = [(new, old) for new, old in pairs if new["metric"] in WORSE_IF_HIGHER + WORSE_IF_LOWER]
    return [line for new, old in pairs if (line := _worse(new, old))], len(pairs)


def _key(row: dict) -> tuple:
    return tuple(sorted((key, str(x)) for key, x in row.items() if key not in _STATISTICS))


def _worse(new: dict, old: dict) -> str:
    """Describes how a row is worse than an earlier one; "" if it is not."""
    after, before = new.get("median", new["mean"]), old.get("median", old["mean"])
    change = 100 * (after / before - 1)
    if new["metric"] in WORSE_IF_HIGHER:
        apart = new.get("low", after) > old.get("high", before)
    else:
        change = -change
        apart = new.get("high", after) < old.get("low", before)
    if not apart or change < LEAST_CHANGE:
        return ""
    columns = [f"{key} {x}" for key, x in new.items() if key not in (*_STATISTICS, "metric")]
    return f"{new['metric']} was {before:g} and is {after:g} ({', '.join(columns)})"
