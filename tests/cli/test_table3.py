"""tools/table3.py, as a user types it, and its suites."""

import json
import runpy

import pytest

from flowdet.engine import load_config
from flowdet.experiments.mode_table import line_key
from tests.cli.commands import SMALL_VIT
from tests.cli.conftest import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "table3.py"))


def test_table3_from_nothing_and_again(run, tmp_path):
    words = ("tools/table3.py", "--suite", "digits", "--epochs", 1, "--batch-size", 256)
    words += ("--seeds", 1, "--output", tmp_path, *SMALL_VIT)
    status, output = run(*words)
    assert status == 0, output
    assert "Made by `tools/table3.py" in (tmp_path / "table3.md").read_text()
    rows = json.loads((tmp_path / "table3.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"flow", "backprop"}
    assert all(row["mean"] == 0 for row in rows if row["metric"] == "missing_runs")
    modes = {(row["method"], row["mode"]) for row in rows if "mode" in row}
    shared = {"single_step", "ensemble", "multi_step", "multi_step_ensemble", "probe"}
    assert modes == {("flow", mode) for mode in shared} | {
        ("backprop", "head"),
        ("backprop", "probe"),
    }

    model = tmp_path / "vit_parallel_flow_seed0" / "model_final.pth"
    made = model.stat().st_mtime_ns
    status, output = run(*words, "DATASETS.DOWNLOAD", "True")
    assert status == 0, output
    assert model.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    "words, message",
    [
        (["--backbones", "cnn"], "--backbones: --suite digits has no cnn, only vit"),
        (["--methods", "flow_paper"], "--suite digits has no flow_paper, only flow, backprop"),
        (["--epochs", "0"], "--epochs: must be at least 1, got '0'"),
    ],
)
def test_options_that_make_no_sense(words, message, capsys):
    with pytest.raises(SystemExit):
        TOOL["parse_args"](words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, option", [("SOLVER.MAX_ITER", "--epochs"), ("SOLVER.IMS_PER_BATCH", "--batch-size")]
)
def test_what_options_set_cannot_be_overridden(key, option, tmp_path):
    args = TOOL["parse_args"](["--output", str(tmp_path), "--opts", key, "4"])
    with pytest.raises(ValueError, match=f"{key} is set by {option}: leave it out"):
        TOOL["plan"](args)


@pytest.mark.parametrize("suite", TOOL["SUITES"])
def test_the_configs_of_a_suite_are_what_it_says(suite):
    for place, config in TOOL["SUITES"][suite].items():
        assert config.startswith(suite.removesuffix("_small"))
        cfg = load_config(str(ROOT / "configs" / "cls" / f"{config}.yaml"))
        assert tuple(line_key(cfg).values()) == place


def test_the_small_suite(monkeypatch):
    planned = []
    monkeypatch.setattr(TOOL["Run"], "plan", lambda *given: planned.append(given))
    args = TOOL["parse_args"](["--suite", "cifar10_small", "SOLVER.BASE_LR", "1"])
    cfgs = []
    for backbone, epochs in (("cnn", 6), ("vit", 3)):
        file = str(TOOL["CONFIGS"] / f"cifar10_flow_{backbone}.yaml")
        TOOL["plan_run"](args, file, backbone, 0)
        _, budget, _, _, overrides, name = planned[-1]
        assert (budget.batch_size, budget.epochs) == (64, epochs)
        assert name == f"{backbone}_parallel_flow"
        cfgs.append(load_config(file, overrides))
    for cfg in cfgs:
        assert cfg.DATASETS.TRAIN == ("cifar10_subset_train",)
        assert (cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.BASE_LR) == (1, 1.0)
    cnn, vit = cfgs
    assert cnn.MODEL.CNN.CHANNELS == [32, 96, 256]
    assert (cnn.MODEL.FLOW_CLS.BLOCK_DIM, vit.MODEL.FLOW_CLS.BLOCK_DIM) == (512, 1024)


def test_backprop_is_there_with_every_topology(monkeypatch):
    monkeypatch.setitem(TOOL["plan"].__globals__, "plan_run", lambda args, file, *_: file)
    monkeypatch.setitem(TOOL["plan"].__globals__, "Comparison", lambda runs, _: runs)
    words = ["--suite", "cifar100", "--backbones", "cnn", "--topologies", "sequential"]
    files = TOOL["plan"](TOOL["parse_args"]([*words, "--seeds", "1"]))
    assert [file.rpartition("/")[2] for file in files] == [
        "cifar100_flow_cnn_sequential.yaml",
        "cifar100_flow_cnn_sequential_paper.yaml",
        "cifar100_backprop_cnn.yaml",
    ]
