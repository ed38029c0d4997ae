"""The final numbers of a finished run, and the config keys that decide them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.config import add_flowdet_config, flat_items
from flowdet.detection.set_detector import SetDetector
from flowdet.experiments.comparison import Run
from flowdet.experiments.comparison_table import run_columns
from flowdet.reporting.curves import metric_series
from flowdet.reporting.results import describe_machine
from flowdet.reporting.runs import IRRELEVANT_KEYS, elapsed_seconds, read_metrics

# keys in which the runs of one method may differ
SCHEDULE_KEYS = (
    "SOLVER.BASE_LR",
    "SOLVER.MAX_EPOCHS",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
)
# keys that differ between the seeds of a run, or between machines
_LOCAL_KEYS = (*IRRELEVANT_KEYS, "SEED", "DATASETS.PATH")


def ap_names(cfg: CfgNode) -> list[str]:
    """Returns the names of AP50, AP75 and AP; with `TEST.CLASS_SUBSET` those of the subset."""
    suffix = "-subset" if cfg.TEST.CLASS_SUBSET else ""
    return [f"{name}{suffix}" for name in ("AP50", "AP75", "AP")]


def method_columns(method: str, run: Run) -> dict:
    """Returns the columns that all rows of a method's run share, see `run_columns`.

    Only detectors with a set of queries have the column `num_blocks`.
    """
    columns = run_columns(run) | {"method": method}
    architecture = META_ARCH_REGISTRY.get(run.cfg.MODEL.META_ARCHITECTURE)
    if not issubclass(architecture, SetDetector):
        columns.pop("num_blocks", None)
    return columns


def measured_here() -> dict[str, str]:
    """Returns the columns `date` and `machine` of a row that is measured now."""
    return {"date": datetime.date.today().isoformat(), "machine": describe_machine()}


@dataclass(frozen=True)
class RecordedRun:
    """The final numbers of a finished run.

    Attributes:
        rows: one row of the result file per metric: AP50, AP75, AP, `train_seconds`. The rows of
            the accuracies also have their values during the training (`curve`) and the iterations
            and seconds of training before each value (`curve_iterations`, `curve_seconds`), if the
            run has logged them.
    """

    rows: tuple[dict, ...]

    @classmethod
    def of(
        cls, method: str, run: Run, *, timed: bool = True, epoch_seconds: float | None = None
    ) -> RecordedRun:
        """Reads the numbers of a finished run from its folder.

        If the run averages its weights, the accuracies are those of the averaged weights.

        Args:
            method: the name of the method in the comparison.
            run: a finished run.
            timed: whether the times of the run are recorded. Runs that were trained at the same
                time have slowed each other.
            epoch_seconds: seconds of an epoch, measured elsewhere. The times are computed from it
                instead, and the rows have it as a column.

        Raises:
            ValueError: the run has no AP in its `results.json`.
        """
        weights = "ema" if any(row.get("weights") == "ema" for row in run.rows()) else "raw"
        final = {
            row["metric"]: row["mean"] for row in run.rows() if row.get("weights", "raw") == weights
        }
        missing = [name for name in ap_names(run.cfg) if name not in final]
        if missing:
            raise ValueError(
                f"{run.folder / 'results.json'} has no {missing[0]}: delete the run, and check "
                f"that {run.cfg.DATASETS.TEST[0]} has objects of the evaluated classes"
            )
        common = method_columns(method, run) | {"run": run.name, "seed": run.seed}
        common |= measured_here() | ({"weights": "ema"} if weights == "ema" else {})
        records = _readable_metrics(run)
        if epoch_seconds is not None:
            records = _with_time(run, records, epoch_seconds)
            common["epoch_seconds"] = epoch_seconds
        values, curves = {name: final[name] for name in ap_names(run.cfg)}, {}
        seconds = elapsed_seconds(records, [run.cfg.SOLVER.MAX_ITER])
        if seconds and (timed or epoch_seconds is not None):
            curves = {name: _curve(run, records, name, weights) for name in values}
            values["train_seconds"] = round(seconds[0], 1)
        return cls(
            tuple(
                common | {"metric": name, "mean": value, "std": None, "n": 1} | curves.get(name, {})
                for name, value in values.items()
            )
        )

    @property
    def name(self) -> str:
        """The name of the run; runs that differ only in their seed have the same name."""
        return self.rows[0]["run"]

    @property
    def method(self) -> str:
        return self.rows[0]["method"]

    @property
    def seed(self) -> int:
        return self.rows[0]["seed"]

    @property
    def values(self) -> dict[str, float]:
        """The values by metric."""
        return {row["metric"]: row["mean"] for row in self.rows}


def _readable_metrics(run: Run) -> list[dict]:
    try:
        return read_metrics(run.folder, warn=False)
    except (OSError, ValueError):
        return []


def _with_time(run: Run, records: Sequence[dict], epoch_seconds: float) -> list[dict]:
    """Returns a copy of the records of a run with the time per iteration of a given epoch."""
    seconds = epoch_seconds * run.budget.epochs / run.cfg.SOLVER.MAX_ITER
    return [record | {"time": seconds} for record in records]


def _curve(run: Run, records: Sequence[dict], metric: str, weights: str) -> dict[str, list]:
    """Returns the columns of a metric's curve; {} if the run has logged no times."""
    task = "bbox_ema" if weights == "ema" else "bbox"
    series = metric_series(records, f"{task}/{metric}", run.cfg.SOLVER.MAX_ITER)
    seconds = elapsed_seconds(records, list(series))
    if not seconds:
        return {}
    return {
        "curve_iterations": list(series),
        "curve_seconds": [round(x, 1) for x in seconds],
        "curve": [round(x, 2) for x in series.values()],
    }


def recorded_keys(cfg: CfgNode) -> dict[str, object]:
    """Returns the keys that decide the result of a run, as they are read from a JSON file.

    Keys that have detectron2's own default are left out, but not those that have flowdet's default:
    so a result file shows that a default was changed after a run.
    """
    defaults = dict(flat_items(get_cfg()))
    keys = {
        key: value
        for key, value in flat_items(cfg)
        if not isinstance(value, CfgNode)
        and key not in _LOCAL_KEYS
        and not (key in defaults and defaults[key] == value)
    }
    # the folder differs between machines
    weights = {"MODEL.WEIGHTS": Path(cfg.MODEL.WEIGHTS).name}
    return json.loads(json.dumps(keys | weights))


def differing_keys(recorded: dict, planned: dict, allowed: Sequence[str]) -> list[str]:
    """Describes the keys with another value; a missing key has its default value."""
    cfg = get_cfg()
    add_flowdet_config(cfg)
    defaults = json.loads(
        json.dumps({k: v for k, v in flat_items(cfg) if not isinstance(v, CfgNode)})
    )
    differing = []
    for key in sorted({*recorded, *planned} & {*defaults}):
        one, other = recorded.get(key, defaults[key]), planned.get(key, defaults[key])
        if one != other and key not in allowed:
            differing.append(f"{key} {one!r} (here {other!r})")
    return differing
