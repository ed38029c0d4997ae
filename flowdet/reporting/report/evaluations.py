"""Selects the results of a run's evaluations from metrics.json, by dataset and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from flowdet.engine.task_builders import CLASSIFICATION, task_of


@dataclass(frozen=True)
class MetricGroup:
    """The metrics of one test dataset, for the last weights or for the averaged weights.

    Attributes:
        label: names the dataset (if there are several) and the averaged weights; "" for neither.
        prefix: the prefix of the metrics in metrics.json, such as `bbox/` or
            `digits_test/bbox_ema/`.
    """

    label: str
    prefix: str

    def metrics(self, record: dict) -> dict[str, float]:
        """Returns the metrics of this group in a record, by name without the prefix."""
        return {
            key.removeprefix(self.prefix): value
            for key, value in record.items()
            if key.startswith(self.prefix)
        }


def metric_groups(cfg: CfgNode, records: Sequence[dict]) -> list[MetricGroup]:
    """Returns the metric groups in the records, one per dataset and kind of weights."""
    task = "classification" if task_of(cfg) is CLASSIFICATION else "bbox"
    names = cfg.DATASETS.TEST
    several = len(names) > 1
    groups = []
    for name in names:
        for weights in ("", "_ema"):
            prefix = f"{name}/{task}{weights}/" if several else f"{task}{weights}/"
            if any(key.startswith(prefix) for record in records for key in record):
                words = [name] * several + ["averaged weights"] * bool(weights)
                groups.append(MetricGroup(", ".join(words), prefix))
    return groups


def last_metrics(records: Sequence[dict], group: MetricGroup) -> dict[str, float]:
    """Returns the metrics of a group in its last evaluation; empty without an evaluation."""
    return next(filter(None, (group.metrics(record) for record in reversed(records))), {})
