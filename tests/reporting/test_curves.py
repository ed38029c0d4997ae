import json

import pytest

from flowdet.reporting.curves import curve_figure, curve_rows, group_runs
from tests.detection.tiny import tiny_cfg


@pytest.fixture
def write_run(tmp_path):
    def write(name, losses, seed=0, file="digits_flow.yaml", batch_size=16):
        cfg = tiny_cfg(file)
        cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR = seed, batch_size, name
        cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 10
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(cfg.dump())
        lines = [
            json.dumps({"iteration": 10 * i + 9, "total_loss": loss}) + "\n"
            for i, loss in enumerate(losses)
        ]
        (folder / "metrics.json").write_text("".join(lines))
        return folder

    return write


def test_mean_and_range_over_the_seeds(write_run):
    folders = [write_run("a", [4.0, 2.0], seed=0), write_run("b", [6.0], seed=1)]
    groups = group_runs(folders)
    assert list(groups) == ["flow"]
    first, second = curve_rows(groups, ["total_loss"])
    assert (first["epoch"], first["mean"], first["min"], first["max"]) == (1.0, 5.0, 4.0, 6.0)
    # the second run was interrupted before
    assert (second["epoch"], second["mean"], second["n"]) == (2.0, 2.0, 1)
    (axes,) = curve_figure([first, second]).axes
    assert len(axes.lines) == 1 and axes.get_xlabel() == "epoch"


def test_iterations_that_one_seed_lacks_are_left_out(write_run):
    # as if a run had been interrupted between its checkpoint and its evaluation
    folders = [write_run("a", [4.0, 2.0, 1.0], seed=0), write_run("b", [6.0, 4.0, 3.0], seed=1)]
    lines = (folders[1] / "metrics.json").read_text().splitlines(keepends=True)
    (folders[1] / "metrics.json").write_text(lines[0] + lines[2])
    rows = curve_rows(group_runs(folders), ["total_loss"])
    assert [(row["iteration"], row["n"]) for row in rows] == [(10, 2), (30, 2)]


def test_device_does_not_matter_for_grouping(write_run):
    first, second = write_run("a", [1.0], seed=0), write_run("b", [1.0], seed=1)
    config = (second / "config.yaml").read_text().replace("DEVICE: cpu", "DEVICE: cuda")
    (second / "config.yaml").write_text(config)
    assert len(group_runs([first, second])) == 1


def test_labels_of_groups_are_unique(write_run):
    flow = write_run("flow", [1.0])
    backprop = write_run("backprop", [1.0], file="digits_backprop.yaml")
    small = write_run("small", [1.0], batch_size=1)
    assert list(group_runs([flow, backprop])) == ["flow", "backprop"]
    assert list(group_runs([flow, small])) == ["flow, batch 16", "flow, batch 1"]


def test_invalid_runs(write_run, tmp_path):
    folder = write_run("a", [1.0])
    with pytest.raises(ValueError, match="same config and seed"):
        group_runs([folder, write_run("b", [1.0])])
    with pytest.raises(FileNotFoundError, match="is not a run"):
        group_runs([tmp_path])
    with pytest.raises(ValueError, match="no metric 'bbox/AP50'.*only.*total_loss"):
        curve_rows(group_runs([folder]), ["bbox/AP50"])


def test_a_config_without_test_datasets(write_run):
    folder = write_run("a", [1.0])
    (folder / "config.yaml").write_text("DATASETS: {TEST: []}")
    (row,) = curve_rows(group_runs([folder]), ["total_loss"])
    assert row["dataset"] == ""
