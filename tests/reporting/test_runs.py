import json
import logging

import pytest

from flowdet.reporting.runs import (
    check_same_run,
    elapsed_seconds,
    read_metrics,
    read_run_config,
    training_seconds,
)
from tests.detection.tiny import tiny_cfg


def write_lines(folder, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) + "\n" for r in records]
    (folder / "metrics.json").write_text("".join(lines))


def test_records_of_an_iteration_are_merged_and_sorted(tmp_path):
    # detectron2 writes an evaluation to its own line, after the iterations that followed it
    write_lines(
        tmp_path,
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 39, "total_loss": 2.0},
        {"iteration": 30, "bbox/AP50": 5.0},
        # of the resumed run
        {"iteration": 39, "total_loss": 1.5},
    )
    assert read_metrics(tmp_path) == [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 30, "bbox/AP50": 5.0},
        {"iteration": 39, "total_loss": 1.5},
    ]


def test_truncated_lines_are_skipped(tmp_path, caplog):
    # the second line is truncated, and the resumed run continues it; the last line is truncated
    write_lines(
        tmp_path,
        {"iteration": 19, "total_loss": 3.0},
        '{"iteration": 39, "total_lo',
        {"iteration": 39, "total_loss": 2.0},
        '{"iterat',
    )
    with caplog.at_level(logging.WARNING):
        records = read_metrics(tmp_path)
    assert [r["total_loss"] for r in records] == [3.0, 2.0]
    (message,) = caplog.records
    assert "skipped 1 unreadable lines, the first is line 3" in message.message


def test_missing_files_and_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run: it has no metrics.json"):
        read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a run: it has no config.yaml"):
        read_run_config(tmp_path)
    write_lines(tmp_path, '{"iterat')
    with pytest.raises(ValueError, match="has no valid record"):
        read_metrics(tmp_path)


def test_training_seconds_exclude_evaluations():
    # 20 iterations, an evaluation, 10 iterations
    records = [
        {"iteration": 19, "time": 0.5},
        {"iteration": 25, "bbox/AP50": 5.0},
        {"iteration": 29, "time": 0.25},
    ]
    assert training_seconds(records) == pytest.approx(20 * 0.5 + 10 * 0.25)
    assert training_seconds(records[1:2]) is None


def test_elapsed_seconds_of_a_resumed_run(tmp_path):
    # the run was stopped after 40 iterations and resumed after 30, on a machine with half the speed
    write_lines(
        tmp_path,
        {"iteration": 19, "time": 1.0},
        {"iteration": 39, "time": 1.0},
        {"iteration": 29, "bbox/AP50": 5.0},
        {"iteration": 39, "time": 2.0},
    )
    records = read_metrics(tmp_path)
    assert elapsed_seconds(records, [10, 20, 30]) == pytest.approx([10, 20, 40])
    # after the last record the time stays the same
    assert elapsed_seconds(records, [40, 45]) == pytest.approx([60, 70])
    assert training_seconds(records) == pytest.approx(60)
    assert elapsed_seconds([{"iteration": 3}], [1]) == []


def test_differing_keys_of_another_config_are_named(tmp_path):
    cfg = tiny_cfg(NUM_BLOCKS=3)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    check_same_run(tmp_path, cfg)
    moved = cfg.clone()
    moved.OUTPUT_DIR, moved.MODEL.DEVICE = "elsewhere", "cuda:3"
    moved.MODEL.FLOW_DET.FEATURE_CACHE_DIR = "elsewhere/features"
    moved.DATASETS.DOWNLOAD = True
    moved.MODEL.CATEGORY_IDS = [1, 2, 3]
    check_same_run(tmp_path, moved)
    other = tiny_cfg(NUM_BLOCKS=2)
    other.SOLVER.MAX_EPOCHS = 99
    with pytest.raises(ValueError, match=r"NUM_BLOCKS 3 \(here 2\).*MAX_EPOCHS 7 \(here 99\)"):
        check_same_run(tmp_path, other)


@pytest.mark.parametrize("content", ["", "MODEL: {NOT: ", "a: [1"])
def test_truncated_config(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="config.yaml is unreadable: delete the run"):
        read_run_config(tmp_path)


def test_missing_key_of_an_old_run_has_its_default(tmp_path):
    cfg = tiny_cfg()
    lines = cfg.dump().splitlines(keepends=True)
    old_lines = [line for line in lines if not line.strip().startswith("GIOU_WEIGHT:")]
    assert len(old_lines) == len(lines) - 1
    (tmp_path / "config.yaml").write_text("".join(old_lines))
    assert read_run_config(tmp_path).MODEL.FLOW_DET.GIOU_WEIGHT == 2
    check_same_run(tmp_path, cfg)
    with pytest.raises(ValueError, match=r"GIOU_WEIGHT 2.0 \(here 3.0\)"):
        check_same_run(tmp_path, tiny_cfg(GIOU_WEIGHT=3.0))


def test_keys_without_effect_are_not_compared(tmp_path):
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    # it counts only with other TRAINING_STATES than those of the default
    other = tiny_cfg(COUPLING="ordered")
    other.MODEL.NOPROP.ETA = 0.7
    check_same_run(tmp_path, other)
    with pytest.raises(ValueError, match="TRAINING_STATES 'rollout' .here 'interpolated'."):
        check_same_run(tmp_path, tiny_cfg(TRAINING_STATES="interpolated"))
