"""The scalars of a training in `metrics.json`: complete after a stop, and without duplicates.

The file has one JSON object a line, as detectron2 writes it. Several lines of an iteration belong
together: an evaluation is written after the losses.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from pathlib import Path

from detectron2.utils.events import EventWriter, get_event_storage

from flowdet.engine.atomic_file import disk_errors, write_atomically

METRICS = "metrics.json"
# written after the last iteration only
FINAL_KEY = "images_per_second_mean"
# written after every evaluation
EVALUATION_KEY = "evaluation_seconds"
_LISTED = 3
# begin the names that every iteration writes
_STEP_KEYS = "lr/"


class MetricsWriter(EventWriter):
    """Appends the new scalars of the event storage to a file and flushes it to the disk.

    detectron2's writer leaves out scalars of an iteration of which it has written others.

    Args:
        path: path of the file, which is created by the first `write`.
        window_size: scalars with a smoothing hint are medians over this many iterations.
    """

    def __init__(self, path: str | Path, window_size: int = 20):
        self._path = Path(path)
        self._window_size = window_size
        self._written: dict[str, int] = {}

    def write(self) -> None:
        """Writes the scalars that are newer than those of the last call.

        Raises:
            OSError: the file cannot be written.
        """
        records: dict[int, dict] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._written.get(name, -1):
                records[iteration][name] = value
                self._written[name] = iteration
        if not records:
            return
        lines = [_line(records[i] | {"iteration": i}) for i in sorted(records)]
        with disk_errors(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())


def _line(record: dict) -> str:
    return json.dumps(record, sort_keys=True) + "\n"


def parse_record(line: str) -> dict | None:
    """Reads a line of the file; None if it is not a record.

    A resumed training of an earlier version appended to the line that a stop had truncated: the
    result is then the record at the end of the line.
    """
    try:
        record = json.loads(line)
    # also a number with too many digits, or too many levels
    except (ValueError, RecursionError):
        start = line.rfind('{"')
        return parse_record(line[start:]) if start > 0 else None
    return record if _is_record(record) else None


def _is_record(value: object) -> bool:
    """Whether a value has an iteration, and only numbers."""
    if not isinstance(value, dict) or type(value.get("iteration")) is not int:
        return False
    return value["iteration"] >= 0 and all(map(_is_number, value.values()))


def _is_number(value: object) -> bool:
    # an integer of any size may be too large for a float
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def read_records(folder: str | Path) -> list[dict]:
    """Returns the records in the file of a run, one a line; without the lines that are damaged."""
    try:
        text = Path(folder, METRICS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    records = map(parse_record, text.splitlines())
    return [record for record in records if record is not None]


def cut_metrics(folder: str | Path, start_iter: int, max_iter: int) -> None:
    """Deletes the records of the iterations that a resumed training repeats.

    The record of the evaluation after the last iteration stays if the resumed training is longer.
    Otherwise this evaluation is repeated as well.

    Args:
        folder: the folder of the run.
        start_iter: the first iteration of the resumed training.
        max_iter: its number of iterations.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(folder, METRICS)
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    damaged = [number for number, line in enumerate(lines, 1) if parse_record(line) is None]
    if damaged:
        listed = ", ".join(map(str, damaged[:_LISTED])) + (", ..." if damaged[_LISTED:] else "")
        logging.getLogger(__name__).warning(
            "%s: %d lines are no records of metrics (line %s): they are left out",
            *(path, len(damaged), listed),
        )
    records = read_records(folder)
    is_trained = any(_is_of_step(x) for x in records if x["iteration"] == start_iter)
    kept = [
        record
        for record in records
        if record["iteration"] < start_iter
        or (
            record["iteration"] == start_iter < max_iter
            # written after the last iteration, not in an iteration or after an error in it
            and not _is_of_step(record)
            and (FINAL_KEY in record or not is_trained)
        )
    ]
    content = "".join(map(_line, kept)).encode()
    write_atomically(path, lambda file: file.write(content), len(content))


def _is_of_step(record: dict) -> bool:
    return any(name.startswith(_STEP_KEYS) for name in record)


def has_evaluation(folder: str | Path, iterations: tuple[int, ...]) -> bool:
    """Returns whether the file of a run contains an evaluation after one of some iterations."""
    return any(
        EVALUATION_KEY in record and record["iteration"] in iterations
        for record in read_records(folder)
    )
