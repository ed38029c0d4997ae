"""What the evaluations of a run gave, out of the names in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from flowdet.engine.task_builders import CLASSIFICATION, task_of


@dataclass(frozen=True)
class Evaluated:
    """A dataset and the weights that were evaluated on it.

    Attributes:
        label: what tells it from the others of the run; "" where there is one.
        prefix: of its metrics in metrics.json, such as `bbox/` or `digits_test/bbox_ema/`.
    """

    label: str
    prefix: str

    def metrics(self, record: dict) -> dict[str, float]:
        """The metrics that a record holds, by their names without the prefix."""
        return {
            key.removeprefix(self.prefix): value
            for key, value in record.items()
            if key.startswith(self.prefix)
        }


def evaluated(cfg: CfgNode, records: Sequence[dict]) -> list[Evaluated]:
    """Every dataset and every kind of weights that the records hold metrics of."""
    task = "classification" if task_of(cfg) is CLASSIFICATION else "bbox"
    names = cfg.DATASETS.TEST
    several = len(names) > 1
    found = []
    for name in names:
        for weights in ("", "_ema"):
            prefix = f"{name}/{task}{weights}/" if several else f"{task}{weights}/"
            if any(key.startswith(prefix) for record in records for key in record):
                words = [name] * several + ["averaged weights"] * bool(weights)
                found.append(Evaluated(", ".join(words), prefix))
    return found


def last_metrics(records: Sequence[dict], of: Evaluated) -> dict[str, float]:
    """What the last evaluation gave; empty without one."""
    return next(filter(None, (of.metrics(record) for record in reversed(records))), {})
