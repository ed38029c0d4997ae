"""metrics.json: complete after a stop, and without duplicates."""

import errno
import json
import os
from unittest import mock

import pytest
from detectron2.utils.events import EventStorage

from flowdet.engine.metrics_file import (
    EVALUATION_KEY,
    FINAL_KEY,
    MetricsWriter,
    cut_metrics,
    has_evaluation,
    parse_record,
    read_records,
)


def write_lines(folder, records, end=""):
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.json").write_text(text + end)


def test_scalars_are_written_once_also_those_put_after_others(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.json")
    with EventStorage(0) as storage:
        for iteration, loss in ((0, 4.0), (1, 2.0), (2, 0.0)):
            storage.iter = iteration
            storage.put_scalar("loss", loss)
        writer.write()
        # an evaluation after the same iteration
        storage.put_scalar("bbox/AP", 7.0, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.iter = 3
        storage.put_scalar("loss", 1.0)
        writer.write()
    assert read_records(tmp_path) == [
        {"iteration": 2, "loss": 2.0},
        {"iteration": 2, "bbox/AP": 7.0},
        {"iteration": 3, "loss": 1.5},
    ]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=error))
    with EventStorage(0) as storage:
        storage.put_scalar("loss", 1.0)
        with pytest.raises(OSError, match="metrics.json cannot be written: the disk of .* is full"):
            MetricsWriter(tmp_path / "metrics.json").write()


STEPS = [{"iteration": i, "lr/rest": 0.1} for i in (1, 2, 3, 4)]
# an evaluation in the training, and those after the last iteration, 4, and after an error in it
MIDDLE = {"iteration": 3, "bbox/AP": 5.0, EVALUATION_KEY: 1.0}
FINAL = {"iteration": 4, FINAL_KEY: 9.0, "bbox/AP": 6.0, EVALUATION_KEY: 1.0}
ERROR = {"iteration": 4, FINAL_KEY: 9.0, "lr/rest": 0.1}


@pytest.mark.parametrize(
    ("start", "length", "kept"),
    [
        # the evaluation after iteration 3 is repeated with the iteration
        (3, 9, STEPS[:2]),
        (4, 9, [*STEPS[:3], MIDDLE, FINAL]),
        # a finished training evaluates again
        (4, 4, [*STEPS[:3], MIDDLE]),
        (5, 9, [*STEPS, MIDDLE, FINAL, ERROR]),
    ],
)
def test_repeated_iterations_are_cut(tmp_path, start, length, kept):
    write_lines(tmp_path, [*STEPS, MIDDLE, FINAL, ERROR], end='{"iteration": 5, "lo')
    cut_metrics(tmp_path, start, length)
    assert read_records(tmp_path) == kept
    assert (tmp_path / "metrics.json").read_text().count("\n") == len(kept)


def test_lines_that_are_left_out_are_counted(tmp_path, caplog):
    write_lines(tmp_path, [{"iteration": 0}])
    cut_metrics(tmp_path, 1, 9)
    assert not caplog.records
    with open(tmp_path / "metrics.json", "a", encoding="utf-8") as file:
        file.write('{"iteration": "1"}\n{"iteration": 0, "lo')
    cut_metrics(tmp_path, 1, 9)
    assert read_records(tmp_path) == [{"iteration": 0}]
    (message,) = caplog.messages
    assert message.endswith("2 lines are no records of metrics (line 2, 3): they are left out")


def test_a_run_without_metrics(tmp_path):
    cut_metrics(tmp_path, 3, 9)
    assert read_records(tmp_path) == [] and not (tmp_path / "metrics.json").exists()
    assert not has_evaluation(tmp_path, (2, 3))
    write_lines(tmp_path, [*STEPS, MIDDLE])
    assert has_evaluation(tmp_path, (2, 3)) and not has_evaluation(tmp_path, (1, 2))


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ('{"iteration": 1}', {"iteration": 1}),
        # truncated, and continued by a run of an earlier version
        ('{"iteration": 1, "lo{"iteration": 0}', {"iteration": 0}),
        *[(text, None) for text in ("", "{", "7", "[1]", "{}", '{"loss": 1}', "\0\0")],
        # of somebody else
        *[(f'{{"iteration": {x}}}', None) for x in ('"1"', "[1]", "null", "1.5", "-1", "9" * 5000)],
        *[(f'{{"iteration": 1, "a": {x}}}', None) for x in ('"1"', "{}", "[" * 99_999, 10**400)],
        ('{"iteration": 1, "a": Infinity}', {"iteration": 1, "a": float("inf")}),
    ],
)
def test_lines(line, record):
    assert parse_record(line) == record
