import json
import math
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg

import flowdet
from flowdet import add_flowdet_config
from flowdet.reporting.command_line import sibling_program, typed_command
from flowdet.reporting.results import changed_keys, result_rows, write_results, write_text
from tests.detection.tiny import tiny_cfg


def test_rows_of_a_detector():
    cfg = tiny_cfg(INFERENCE_MODE="multi_step", NUM_STEPS=0)
    rows = result_rows(cfg, "pets", {"bbox": {"AP50": 12.3456, "AP50-cat": math.nan}})
    (row,) = rows
    assert (row["metric"], row["mean"], row["n"]) == ("AP50", 12.35, 1)
    assert (row["method"], row["mode"], row["num_steps"]) == ("flow", "multi_step", 3)
    assert row["dataset"] == "pets"


@pytest.mark.parametrize("length", [{}, {"iterations": 7}])
def test_the_length_of_a_training_may_be_unknown(length):
    """Weights that are evaluated may come from a training with another config."""
    cfg = tiny_cfg()
    (row,) = result_rows(cfg, "pets", {"bbox": {"AP": 1.0}}, length)
    assert {key: row[key] for key in ("epochs", "iterations") if key in row} == length
    (row,) = result_rows(cfg, "pets", {"bbox": {"AP": 1.0}})
    assert (row["epochs"], row["iterations"]) == (cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER)


@pytest.mark.parametrize(
    "file, keys, method",
    [
        ("digits_flow.yaml", {}, "flow"),
        ("digits_flow.yaml", {"TRAINING_STATES": "interpolated"}, "flow_interpolated"),
        ("paper/digits_flow.yaml", {}, "flow_paper"),
        ("digits_backprop.yaml", {}, "backprop"),
        ("paper/digits_backprop.yaml", {}, "backprop_paper"),
        ("digits_backprop.yaml", {"CHECKPOINT_BLOCKS": True}, "backprop_checkpointed"),
    ],
)
def test_methods(file, keys, method):
    (row,) = result_rows(tiny_cfg(file, **keys), "pets", {"bbox": {"AP": 1.0}})
    assert row["method"] == method
    assert ("mode" in row) == method.startswith("flow")


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "digits.json"
    origin = {"command": "tools/train_net.py", "config": "a.yaml", "seeds": [0]}
    write_results(path, [{"metric": "AP50", "mean": 1.0}], **origin)
    with pytest.raises(ValueError):
        write_results(path, [{"metric": "AP50", "mean": math.nan}], **origin)
    content = json.loads(path.read_text())
    assert content["rows"] == [{"metric": "AP50", "mean": 1.0}]
    assert content["seeds"] == [0] and content["versions"]["torch"]


def test_changed_keys_reproduce_the_config():
    cfg = tiny_cfg(NUM_STEPS=7)
    cfg.OUTPUT_DIR = "anywhere"
    keys = changed_keys(cfg)
    assert keys["MODEL.FLOW_DET.NUM_STEPS"] == 7 and keys["DATASETS.TRAIN"] == ["digits_train"]
    assert "OUTPUT_DIR" not in keys and "MODEL.FLOW_DET.NUM_HEADS" not in keys
    json.dumps(keys)
    again = get_cfg()
    add_flowdet_config(again)
    again.merge_from_list([x for pair in keys.items() for x in pair])
    assert again.MODEL == cfg.MODEL and again.SOLVER == cfg.SOLVER


@pytest.mark.parametrize(
    "program, name",
    [
        ("/checkout/tools/train_net.py", "tools/train_net.py"),
        ("/usr/bin/flowdet-train", "flowdet-train"),
        ("my tools/train_net.py", "'my tools/train_net.py'"),
        (f"{Path(flowdet.__file__).parent}/cli/train.py", "python -m flowdet.cli.train"),
    ],
)
def test_typed_command(monkeypatch, program, name):
    monkeypatch.setattr(sys, "argv", [program, "--config-file", "a b.yaml"])
    assert typed_command() == f"{name} --config-file 'a b.yaml'"
    monkeypatch.setattr(sys, "argv", [program])
    assert typed_command() == name


@pytest.mark.parametrize(
    "program, name",
    [
        ("tools/train_net.py", "tools/report.py"),
        ("/usr/bin/flowdet-train", "flowdet-report"),
        ("/my tools/train_net.py", "'/my tools/report.py'"),
        (f"{Path(flowdet.__file__).parent}/cli/train.py", "python -m flowdet.cli.report"),
    ],
)
def test_sibling_program(monkeypatch, program, name):
    monkeypatch.setattr(sys, "argv", [program])
    assert sibling_program("report") == name


def test_typed_command_from_another_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["../checkout/tools/train_net.py", "--resume"])
    monkeypatch.chdir(tmp_path)
    assert typed_command() == "../checkout/tools/train_net.py --resume"


def test_names_that_are_not_utf_8_are_escaped(tmp_path):
    write_text(tmp_path / "a.json", json.dumps({"name": "a\udcff.png"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "a\udcff.png"}
