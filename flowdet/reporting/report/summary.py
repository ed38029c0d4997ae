"""The numbers and tables of a report."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.reporting.report.evaluations import Evaluated, last_metrics
from flowdet.reporting.results import backbone_of, method_of
from flowdet.reporting.runs import training_seconds

_MEMORY = {
    "memory/gpu_peak_mib": "on the GPU (of the first process)",
    "memory/process_peak_mib": "of the process",
}


@dataclass(frozen=True)
class Table:
    """Rows of texts under headers; the first column names the row."""

    headers: list[str]
    rows: list[list[str]]


def percent(value: float | None) -> str:
    """`81.3`, or a dash for what there is no value of."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def about(cfg: CfgNode, folder: Path, records: Sequence[dict]) -> list[tuple[str, str]]:
    """What was trained, when, how and at what cost, as pairs of a name and a text."""
    node = task_of(cfg).keys(cfg)
    kind = "classification" if task_of(cfg) is CLASSIFICATION else "detection"
    done = _iterations_done(cfg, records)
    return [
        ("TaskBuilders", f"{kind}, {node.NUM_CLASSES} classes"),
        ("Method", f"{method_of(cfg)} ({cfg.MODEL.META_ARCHITECTURE}), {node.NUM_BLOCKS} blocks"),
        ("Backbone", backbone_of(cfg)),
        ("Trained on", ", ".join(cfg.DATASETS.TRAIN)),
        ("Tested on", ", ".join(cfg.DATASETS.TEST) or "nothing"),
        ("Progress", _progress(cfg, done)),
        *_cost(cfg, records, done),
        ("Seed", str(cfg.SEED) if cfg.SEED >= 0 else "none"),
        *_origin(folder),
    ]


def _iterations_done(cfg: CfgNode, records: Sequence[dict]) -> int:
    # an evaluation after the training carries the number of the iteration after it
    return min(records[-1]["iteration"] + 1, cfg.SOLVER.MAX_ITER) if records else 0


def _progress(cfg: CfgNode, done: int) -> str:
    total, per_epoch = cfg.SOLVER.MAX_ITER, task_of(cfg).keys(cfg).ITERS_PER_EPOCH
    epochs = f" ({done / per_epoch:.1f} epochs)" if per_epoch else ""
    state = "finished" if done >= total else f"not finished: {total:,} were planned"
    return f"{done:,} iterations{epochs} of {cfg.SOLVER.IMS_PER_BATCH} images, {state}"


def _cost(cfg: CfgNode, records: Sequence[dict], done: int) -> list[tuple[str, str]]:
    seconds = training_seconds(records)
    if not seconds:
        return [("Duration", "not known: too few iterations were timed")]
    rows = [
        ("Duration", f"{_duration(seconds)} (without evaluations)"),
        ("Images per second", f"{done * cfg.SOLVER.IMS_PER_BATCH / seconds:,.1f}"),
    ]
    for key, words in _MEMORY.items():
        peaks = [record[key] for record in records if key in record]
        rows += [("Peak memory", f"{max(peaks):,.0f} MiB {words}")] if peaks else []
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return str(datetime.timedelta(seconds=round(seconds)))


def _origin(folder: Path) -> list[tuple[str, str]]:
    """From the results.json that a training writes at its end."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        return [
            ("Command", found["command"]),
            ("Date", found["date"]),
            ("Versions", versions),
            ("Machine", found["machine"]),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        unknown = "not known: there is no results.json, which a training writes at its end"
        return [("Command", unknown)]


def headlines(records: Sequence[dict], evaluations: Sequence[Evaluated]) -> list[tuple[str, str]]:
    """The few numbers that sum a run up, each with its name."""
    found = []
    for of in evaluations:
        metrics = last_metrics(records, of)
        suffix = f", {of.label}" if of.label else ""
        found += [
            (name.replace("top", "top-") + suffix, percent(metrics[name]))
            for name in ("AP50", "AP75", "AP", "AP50-subset", "top1", "top5")
            if name in metrics
        ]
    return found


def mode_table(records: Sequence[dict], evaluations: Sequence[Evaluated]) -> Table | None:
    """Top-1, 5 and 10 of every inference mode in the last evaluation of a classifier."""
    rows = []
    for of in evaluations:
        metrics = last_metrics(records, of)
        for name in metrics:
            if name.startswith("top1-"):
                mode = name.removeprefix("top1-")
                values = [percent(metrics.get(f"top{k}-{mode}")) for k in (1, 5, 10)]
                rows.append([f"{mode}, {of.label}" if of.label else mode, *values])
    return Table(["Inference mode", "Top-1", "Top-5", "Top-10"], rows) if rows else None


def class_table(
    class_names: Sequence[str],
    counts: Counter | None,
    records: Sequence[dict],
    evaluations: Sequence[Evaluated],
) -> Table | None:
    """Average precision per class in the last evaluation of a detector, None without one.

    Args:
        counts: objects per class index in the test images; None where they are not known.
    """
    columns = []
    for of in evaluations:
        metrics = last_metrics(records, of)
        # VOC's evaluation gives the one, COCO's the other
        for name in ("AP50", "AP"):
            values = [metrics.get(f"{name}-{c}") for c in class_names]
            if any(value is not None for value in values):
                header = f"{name}, {of.label}" if of.label else name
                columns.append((header, [percent(value) for value in values]))
    if not columns:
        return None
    objects = ["–" if counts is None else str(counts[i]) for i in range(len(class_names))]
    headers = ["Class", "Objects", *(header for header, _ in columns)]
    rows = zip(class_names, objects, *(values for _, values in columns), strict=True)
    return Table(headers, [list(row) for row in rows])
