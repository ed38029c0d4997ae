"""Reads the files that a training writes to its folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.engine import load_config
from flowdet.engine.config_effects import why_without_effect
from flowdet.engine.config_reader import ConfigFileError
from flowdet.engine.config_types import as_lists
from flowdet.engine.metrics_file import METRICS, parse_record

logger = logging.getLogger(__name__)

# keys that do not change the trained weights, so that two runs may differ in them
IRRELEVANT_KEYS = (
    "OUTPUT_DIR",
    "VIS_PERIOD",
    "MODEL.DEVICE",
    "MODEL.CATEGORY_IDS",
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
    "TEST.REPORT_EXPLORER",
)


def read_metrics(folder: str | Path, warn: bool = True) -> list[dict]:
    """Reads the records of a run's `metrics.json`.

    A run that was interrupted and resumed has written some iterations twice; the later record is
    used. Lines that an interruption has truncated are left out.

    Args:
        folder: the OUTPUT_DIR of the run.
        warn: whether to log a warning if lines are left out.

    Returns:
        One dict per recorded iteration, in the order of the iterations.

    Raises:
        FileNotFoundError: the folder has no `metrics.json`.
        ValueError: the file has no valid record.
    """
    path = Path(folder) / METRICS
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} is not a run: it has no {METRICS}")
    records: dict[int, dict] = {}
    broken = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
    ):
        record = parse_record(line)
        if record is None:
            broken.append(number)
            continue
        # detectron2 writes evaluations on separate lines, which are not in order
        records.setdefault(record["iteration"], {}).update(record)
    if not records:
        raise ValueError(f"{path} has no valid record: delete the run, or train it again")
    if broken and warn:
        logger.warning(
            "%s: skipped %d unreadable lines, the first is line %d", path, len(broken), broken[0]
        )
    return [records[iteration] for iteration in sorted(records)]


def training_seconds(records: Sequence[dict]) -> float | None:
    """Estimates the duration of all iterations, without evaluations; None if no record has a time.

    See `elapsed_seconds`; iterations after the last record with a time are not counted.
    """
    timed = [record["iteration"] for record in records if "time" in record]
    return elapsed_seconds(records, [timed[-1] + 1])[0] if timed else None


def elapsed_seconds(records: Sequence[dict], iterations: Sequence[int]) -> list[float]:
    """Estimates the duration of the first iterations of a training, without evaluations.

    The time of a record is the median over the latest iterations. It is used for all iterations
    since the previous record, so that interruptions do not count. The last time is also used for
    all iterations after its record.

    Args:
        records: the records of a run, see `read_metrics`.
        iterations: numbers of finished iterations.

    Returns:
        The seconds for each of these numbers; [] if no record has a time.
    """
    timed = [record for record in records if "time" in record]
    if not timed:
        return []
    ends = [0, *(record["iteration"] + 1 for record in timed)]
    ends[-1] = max([ends[-1], *iterations])
    spans = list(zip(ends[:-1], ends[1:]))
    return [
        sum(
            record["time"] * max(min(iteration, end) - start, 0)
            for record, (start, end) in zip(timed, spans)
        )
        for iteration in iterations
    ]


def read_run_config(folder: str | Path) -> CfgNode:
    """Reads the config of a run.

    Raises:
        FileNotFoundError: the folder has no `config.yaml`.
        ValueError: the file is unreadable, e.g. truncated.
    """
    path = Path(folder) / "config.yaml"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} is not a run: it has no config.yaml")
    try:
        return load_config(str(path))
    except ConfigFileError as error:
        raise ValueError(f"{path} is unreadable: delete the run, or train it again") from error


def check_same_run(folder: str | Path, cfg: CfgNode) -> None:
    """Checks that the run in a folder has the same config, apart from `IRRELEVANT_KEYS`.

    A key that is missing in the run's config has its default value. Keys that have no effect
    are not compared, see `why_without_effect`.

    Raises:
        FileNotFoundError: the folder has no `config.yaml`.
        ValueError: a key has another value (the message names up to three), or the file is
            unreadable.
    """
    run_values, values = dict(flat_items(read_run_config(folder))), dict(flat_items(cfg))
    differing = [
        f"{key} {run_values.get(key)!r} (here {value!r})"
        for key, value in values.items()
        if key not in IRRELEVANT_KEYS
        and not isinstance(value, CfgNode)
        and as_lists(run_values.get(key)) != as_lists(value)
        and not why_without_effect(key, values)
    ]
    if differing:
        more = f" and {len(differing) - 3} more keys" if len(differing) > 3 else ""
        raise ValueError(
            f"{folder} holds a run of another config: {', '.join(differing[:3])}{more}. Use "
            "another output folder, or delete that run"
        )
