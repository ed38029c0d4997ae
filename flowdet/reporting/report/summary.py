"""Collects the facts, numbers and tables of a report."""

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
from flowdet.reporting.report.evaluations import MetricGroup, last_metrics
from flowdet.reporting.results import backbone_of, has_blocks, method_of
from flowdet.reporting.runs import training_seconds

_MEMORY = {
    "memory/gpu_peak_mib": "on the GPU (of the first process)",
    "memory/process_peak_mib": "of the process",
}


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headers: the column headers.
        rows: the cells of each row; the first cell names the row.
    """

    headers: list[str]
    rows: list[list[str]]


def percent(value: float | None) -> str:
    """Formats a value such as `81.3`; a dash for None or nan."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def run_facts(cfg: CfgNode, folder: Path, records: Sequence[dict]) -> list[tuple[str, str]]:
    """Collects facts about a training, as pairs of a name and a text.

    They describe model, data, progress, cost and origin.

    Args:
        cfg: the config of the run.
        folder: its OUTPUT_DIR.
        records: the records of its `metrics.json`, see `read_metrics`.
    """
    node = task_of(cfg).keys(cfg)
    task = "classification" if task_of(cfg) is CLASSIFICATION else "detection"
    blocks = f", {node.NUM_BLOCKS} blocks" if has_blocks(cfg) else ""
    done = _iterations_done(cfg, records)
    return [
        ("Task", f"{task}, {node.NUM_CLASSES} classes"),
        ("Method", f"{method_of(cfg)} ({cfg.MODEL.META_ARCHITECTURE}){blocks}"),
        ("Backbone", backbone_of(cfg)),
        ("Trained on", ", ".join(cfg.DATASETS.TRAIN)),
        ("Tested on", ", ".join(cfg.DATASETS.TEST) or "nothing"),
        ("Progress", _progress(cfg, done)),
        *_cost(cfg, records, done),
        ("Seed", str(cfg.SEED) if cfg.SEED >= 0 else "none"),
        *_origin(folder),
    ]


def _iterations_done(cfg: CfgNode, records: Sequence[dict]) -> int:
    # the evaluation after the training is recorded under the next iteration
    return min(records[-1]["iteration"] + 1, cfg.SOLVER.MAX_ITER) if records else 0


def _progress(cfg: CfgNode, done: int) -> str:
    total, per_epoch = cfg.SOLVER.MAX_ITER, task_of(cfg).keys(cfg).ITERS_PER_EPOCH
    epochs = f" ({done / per_epoch:.1f} epochs)" if per_epoch else ""
    state = "finished" if done >= total else f"not finished: {total:,} iterations are configured"
    return f"{done:,} iterations{epochs} of {cfg.SOLVER.IMS_PER_BATCH} images, {state}"


def _cost(cfg: CfgNode, records: Sequence[dict], done: int) -> list[tuple[str, str]]:
    seconds = training_seconds(records)
    if not seconds:
        return [("Duration", "unknown: too few iterations were timed")]
    rows = [
        ("Duration", f"{_duration(seconds)} (without evaluations)"),
        ("Images per second", f"{done * cfg.SOLVER.IMS_PER_BATCH / seconds:,.1f}"),
    ]
    for key, where in _MEMORY.items():
        peaks = [record[key] for record in records if key in record]
        rows += [("Peak memory", f"{max(peaks):,.0f} MiB {where}")] if peaks else []
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return str(datetime.timedelta(seconds=round(seconds)))


def _origin(folder: Path) -> list[tuple[str, str]]:
    """Returns the origin of a finished run, from the results.json written at the end."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        return [
            ("Command", results["command"]),
            ("Date", results["date"]),
            ("Versions", versions),
            ("Machine", results["machine"]),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        unknown = "unknown: there is no results.json, which a training writes at its end"
        return [("Command", unknown)]


def headline_metrics(
    records: Sequence[dict], groups: Sequence[MetricGroup]
) -> list[tuple[str, str]]:
    """Returns the main metrics of the last evaluation, as pairs of a name and a percentage."""
    headlines = []
    for group in groups:
        metrics = last_metrics(records, group)
        suffix = f", {group.label}" if group.label else ""
        headlines += [
            (name.replace("top", "top-") + suffix, percent(metrics[name]))
            for name in ("AP50", "AP75", "AP", "AP50-subset", "top1", "top5")
            if name in metrics
        ]
    return headlines


def mode_table(records: Sequence[dict], groups: Sequence[MetricGroup]) -> Table | None:
    """Tabulates top-1, top-5 and top-10 accuracy of every inference mode in a classifier's last
    evaluation; None without a value per mode."""
    rows = []
    for group in groups:
        metrics = last_metrics(records, group)
        for name in metrics:
            if name.startswith("top1-"):
                mode = name.removeprefix("top1-")
                values = [percent(metrics.get(f"top{k}-{mode}")) for k in (1, 5, 10)]
                rows.append([f"{mode}, {group.label}" if group.label else mode, *values])
    return Table(["Inference mode", "Top-1", "Top-5", "Top-10"], rows) if rows else None


def class_table(
    class_names: Sequence[str],
    counts: Counter | None,
    records: Sequence[dict],
    groups: Sequence[MetricGroup],
) -> Table | None:
    """Tabulates the average precision per class in the last evaluation of a detector; None without
    an evaluation.

    Args:
        class_names: the class names by class index.
        counts: the objects per class index in the test images; None if unknown.
        records: the records of the run's `metrics.json`.
        groups: the metric groups in the records.
    """
    columns = []
    for group in groups:
        metrics = last_metrics(records, group)
        # the VOC evaluator writes AP50 per class, the COCO evaluator AP
        for name in ("AP50", "AP"):
            values = [metrics.get(f"{name}-{c}") for c in class_names]
            if any(value is not None for value in values):
                header = f"{name}, {group.label}" if group.label else name
                columns.append((header, [percent(value) for value in values]))
    if not columns:
        return None
    objects = ["–" if counts is None else str(counts[i]) for i in range(len(class_names))]
    headers = ["Class", "Objects", *(header for header, _ in columns)]
    rows = zip(class_names, objects, *(values for _, values in columns), strict=True)
    return Table(headers, [list(row) for row in rows])
