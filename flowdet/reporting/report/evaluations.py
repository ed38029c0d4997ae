"""The results of a run's evaluations, found by their names in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from flowdet.engine.task_builders import CLASSIFICATION, task_of


@dataclass(frozen=True)
class MetricGroup:
    """The metrics of one test dataset, with the weights themselves or with the averaged weights.

    Attributes:
        label: distinguishes the groups of a run; "" if there is only one.
        prefix: the prefix of the metrics in metrics.json, such as `bbox/` or
            `digits_test/bbox_ema/`.
    """

    label: str
    prefix: str

    def metrics(self, record: dict) -> dict[str, float]:
        """The metrics of this group in a record, by their names without the prefix."""
        return {
            key.removeprefix(self.prefix): value
            for key, value in record.items()
            if key.startswith(self.prefix)
        }


def metric_groups(cfg: CfgNode, records: Sequence[dict]) -> list[MetricGroup]:
    """The groups of metrics in the records, by dataset and by weights."""
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
    """The metrics of a group in its last evaluation; empty without an evaluation."""
    return next(filter(None, (group.metrics(record) for record in reversed(records))), {})
