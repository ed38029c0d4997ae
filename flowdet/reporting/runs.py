"""Reading what a training left in its folder."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode

from flowdet.engine import load_config
from flowdet.engine.config import flat_items

logger = logging.getLogger(__name__)

# what may differ without making another training: where and how often things are kept
IRRELEVANT_KEYS = (
    "OUTPUT_DIR",
    "VIS_PERIOD",
    "MODEL.DEVICE",
    "MODEL.FLOW_DET.FEATURE_CACHE_DIR",
    "MODEL.FLOW_DET.FEATURE_CACHE_GIB",
    "DATASETS.DOWNLOAD",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.IN_MEMORY_GIB",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CHECKPOINT_EPOCHS",
    "TEST.EVAL_PERIOD",
    "TEST.EVAL_EPOCHS",
    "TEST.SAMPLE_IMAGES",
    "TEST.REPORT",
    "TEST.REPORT_IMAGES",
)


def read_metrics(folder: str | Path, warn: bool = True) -> list[dict]:
    """The records of a run's `metrics.json`, one per iteration that wrote any, in order.

    A run that was stopped and resumed has written some iterations twice: the later ones count.
    Lines cut by a stop are left out, with one warning if `warn`.

    Raises:
        FileNotFoundError: the folder has no `metrics.json`.
        ValueError: no line of it is a record.
    """
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run: it has no metrics.json")
    records: dict[int, dict] = {}
    broken = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        record = _parse(line)
        if record is None:
            broken.append(number)
            continue
        # detectron2 writes evaluations to lines of their own, and not in order
        records.setdefault(record["iteration"], {}).update(record)
    if not records:
        raise ValueError(f"{path} holds no record: delete the run, or train it again")
    if broken and warn:
        logger.warning("%s: left out %d unreadable lines, first %d", path, len(broken), broken[0])
    return [records[iteration] for iteration in sorted(records)]


def set_metrics_aside(folder: str | Path) -> Path | None:
    """Gives the `metrics.json` of an earlier training in the folder, if there is one, a name with a
    number: detectron2 would add to it, and its later iterations would pass for those of a shorter
    training. Returns its new path."""
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        return None
    names = (path.with_name(f"metrics_{number}.json") for number in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


def _parse(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        # a resumed run appends to the line that a stop has cut
        start = line.rfind('{"')
        return _parse(line[start:]) if start > 0 else None
    return record if isinstance(record, dict) and "iteration" in record else None


def training_seconds(records: Sequence[dict]) -> float | None:
    """How long the iterations took, evaluations left out; None if no record has a time.

    Each record's time, the median of the latest iterations, stands for those since the record
    before: an estimate that a stop and a resumption do not disturb.
    """
    timed = [record for record in records if "time" in record]
    ends = [-1, *(record["iteration"] for record in timed)]
    spans = [end - start for start, end in zip(ends[:-1], ends[1:])]
    return sum(x["time"] * span for x, span in zip(timed, spans)) if timed else None


def read_run_config(folder: str | Path) -> CfgNode:
    """The config that a run was made with.

    Raises:
        FileNotFoundError: the folder has no `config.yaml`.
        ValueError: it is unreadable, e.g. cut by a stop.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no run: it has no config.yaml")
    try:
        return load_config(str(path))
    except (yaml.YAMLError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is unreadable: delete the run, or train it again") from error


def check_same_run(folder: str | Path, cfg: CfgNode) -> None:
    """Raises ValueError if the run in `folder` was made with another config than `cfg`.

    Keys that were added since count as having had their default.
    """
    theirs, ours = dict(flat_items(read_run_config(folder))), dict(flat_items(cfg))
    differing = [
        f"{key} {theirs.get(key)!r} (here {value!r})"
        for key, value in ours.items()
        if key not in IRRELEVANT_KEYS
        and not isinstance(value, CfgNode)
        and _plain(theirs.get(key)) != _plain(value)
    ]
    if differing:
        more = f" and {len(differing) - 3} more keys" if len(differing) > 3 else ""
        raise ValueError(
            f"{folder} holds a run of another config: {', '.join(differing[:3])}{more}. Use "
            "another output folder, or delete that run"
        )


def _plain(value: object) -> object:
    """Lists and tuples alike: YAML does not tell them apart."""
    return [_plain(x) for x in value] if isinstance(value, tuple | list) else value
