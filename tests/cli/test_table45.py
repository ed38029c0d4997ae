"""tools/table45.py and the lines of its tables."""

import json

import pytest

from flowdet.cli import table45
from flowdet.config.config_files import config_path
from flowdet.engine import load_config
from flowdet.experiments.comparison import Run
from flowdet.experiments.mode_table import line_key
from flowdet.reporting.results import backbone_of, method_of
from tests.cli.commands import NO_REPORT


def test_the_digits_table_trains_once_and_is_not_trained_again(run, tmp_path, trainings_in_process):
    words = ("tools/table45.py", "--dataset", "digits", "--methods", "flow", "ff")
    words += ("--backbones", "cnn", "--epochs", 1, "--batch-size", 256, "--seeds", 1)
    words += ("--output", tmp_path, "MODEL.CNN.CHANNELS", "[4,4,4]", *NO_REPORT)
    status, output = run(*words)
    assert status == 0, output
    text = (tmp_path / "table45.md").read_text()
    assert "Made by `tools/table45.py" in text and "| cnn        | ff " in text
    rows = json.loads((tmp_path / "table45.json").read_text())["rows"]
    for method in ("flow", "ff"):
        costs = {row["metric"] for row in rows if row["method"] == method and "mode" not in row}
        assert costs >= {"trained_parameters", "activation_bytes", "missing_runs"}
    # a method without flow blocks has neither their number nor their topology
    assert not any({"num_blocks", "topology"} & row.keys() for row in rows if row["method"] == "ff")
    model = tmp_path / "cnn_ff_seed0" / "model_final.pth"
    written = model.stat().st_mtime_ns
    status, output = run(*words)
    assert status == 0, output
    assert model.stat().st_mtime_ns == written


@pytest.mark.parametrize("dataset", table45.DATASETS)
def test_the_lines_of_a_dataset_have_its_backbone_and_method(dataset):
    lines = table45.lines_of(dataset)
    name = dataset.removesuffix("_small")
    for (backbone, method), line in lines.items():
        cfg = load_config(config_path(f"cls/{line.config}"), line.overrides())
        assert (backbone_of(cfg), method_of(cfg)) == (backbone, method)
        assert name in cfg.OUTPUT_DIR
    methods = {method for _, method in lines}
    assert {"flow", "backprop", "ff", "sff", "symba", "collab"} <= methods


def test_every_method_is_compared_on_digits():
    assert {method for _, method in table45.lines_of("digits")} == set(table45.METHODS)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset", "mnist", "--backbones", "vit"], "--dataset mnist has no vit in this"),
        (["--backbones", "vit", "--methods", "softhebb"], "--dataset digits has no softhebb"),
        (["--seeds", "0"], "--seeds: must be at least 1, got '0'"),
    ],
)
def test_wrong_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        table45.parse_args(words)
    assert message in capsys.readouterr().err


def test_a_local_baseline_has_no_topology_in_the_name_of_its_line():
    cfg = load_config(config_path("cls/baselines/digits_ff_vit"))
    assert line_key(cfg) == {"backbone": "vit", "method": "ff"}


def test_a_suite_gives_a_method_only_the_keys_that_it_reads(monkeypatch, caplog):
    planned = []
    monkeypatch.setattr(Run, "plan", lambda *arguments: planned.append(arguments))
    words = ["--dataset", "mnist_small", "--methods", "flow", "ff", "sff", "noprop_dt", "noprop_ct"]
    args = table45.parse_args([*words, "MODEL.SFF.INFERENCE_SAMPLES", "3"])
    for (backbone, _), line in args.lines.items():
        table45.plan_run(args, line, backbone, 0)
    cfgs = {name: load_config(file, words) for file, _, _, _, words, name in planned}
    # of the user's key, once for each of the two times that a config is read
    methods = ["cnn_parallel_flow", "cnn_ff", "cnn_noprop_dt", "cnn_noprop_ct"]
    warnings = [x.getMessage() for x in caplog.records if "has no effect" in x.getMessage()]
    assert len(warnings) == 2 * len(methods)
    assert all(text.startswith("MODEL.SFF.INFERENCE_SAMPLES has no") for text in warnings)
    nodes = {name.removeprefix("cnn_"): cfg.MODEL for name, cfg in cfgs.items()}
    assert (nodes["sff"].SFF.SAMPLES, nodes["sff"].SFF.INFERENCE_SAMPLES) == (4, 3)
    assert (nodes["noprop_dt"].NOPROP.NUM_BLOCKS, nodes["noprop_ct"].NOPROP.NUM_BLOCKS) == (4, 10)
    assert nodes["parallel_flow"].FLOW_CLS.BLOCK_DIM == 256
    assert all(node.CNN.CHANNELS == [16, 48, 128] for node in nodes.values())
    assert all(budget.epochs == 3 for _, budget, *_ in planned)
