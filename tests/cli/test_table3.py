"""tools/table3.py and its suites."""

import json

import pytest

from flowdet.cli import table3
from flowdet.config.config_files import config_path
from flowdet.engine import load_config
from flowdet.experiments.comparison import Run
from flowdet.experiments.mode_table import line_key
from tests.cli.commands import NO_REPORT, SMALL_VIT


def test_the_digits_suite_trains_once_and_is_not_trained_again(run, tmp_path, trainings_in_process):
    words = ("tools/table3.py", "--suite", "digits", "--epochs", 1, "--batch-size", 256)
    words += ("--seeds", 1, "--output", tmp_path, *SMALL_VIT, *NO_REPORT)
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
    written = model.stat().st_mtime_ns
    status, output = run(*words, "DATASETS.DOWNLOAD", "True")
    assert status == 0, output
    assert model.stat().st_mtime_ns == written

    runs = [tmp_path / f"vit_parallel_{method}_seed0" for method in ("flow", "backprop")]
    words = ("tools/measure_representation.py", "--runs", *runs, "--images", 100)
    status, output = run(*words, "--train-images", 100, "--output", tmp_path / "representation")
    assert status == 0, output
    assert "intrinsic dimension" in output and "linear CKA, last layers" in output
    content = json.loads((tmp_path / "representation" / "representation.json").read_text())
    assert {row["run"] for row in content["rows"]} == {"flow", "backprop"}
    assert len(content["settings"]) == 2 and content["seeds"] == [0]
    assert (tmp_path / "representation" / "representation.svg").is_file()


def test_the_fine_tuning_curves_of_figure_4_at_reduced_size(run, tmp_path, trainings_in_process):
    """A small ViT with random weights on the digits instead of ViT-B/16 on CIFAR-100."""
    words = ("tools/table3.py", "--suite", "cifar100_vit_b16", "--methods", "flow", "backprop")
    words += ("--epochs", 2, "--batch-size", 256, "--seeds", 1, "--output", tmp_path, *NO_REPORT)
    words += ("DATASETS.TRAIN", "('sklearn_digits_train',)", "MODEL.WEIGHTS", "")
    words += ("DATASETS.TEST", "('sklearn_digits_test',)", "DATALOADER.NUM_WORKERS", 0)
    words += ("INPUT.FIXED_SIZE", "[16,16]", "MODEL.VIT.PATCH_SIZE", 4, *SMALL_VIT)
    words += ("MODEL.FLOW_CLS.NUM_HEADS", 2)
    status, output = run(*words)
    assert status == 0, output

    runs = sorted(tmp_path.glob("vit_parallel_*_seed0"))
    assert len(runs) == 2
    words = ("tools/plot_training.py", "--runs", *runs, "--output", tmp_path / "curves")
    status, output = run(*words, "--metrics", "total_loss", "classification/top1")
    assert status == 0, output
    rows = json.loads((tmp_path / "curves" / "curves.json").read_text())["rows"]
    epochs = {}
    for row in rows:
        epochs.setdefault((row["method"], row["metric"]), []).append(row["epoch"])
    methods = {"flow", "backprop"}
    metrics = {"total_loss", "classification/top1"}
    assert set(epochs) == {(method, metric) for method in methods for metric in metrics}
    for method in methods:
        # 11 iterations of 256 images are a little less than 2 epochs
        assert epochs[method, "classification/top1"] == pytest.approx([1, 2], abs=0.2)
    assert (tmp_path / "curves" / "curves.png").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--backbones", "cnn"], "--backbones: --suite digits has no cnn, only vit"),
        (["--methods", "flow_paper"], "--suite digits has no flow_paper, only flow, backprop"),
        (["--epochs", "0"], "--epochs: must be at least 1, got '0'"),
    ],
)
def test_wrong_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        table3.parse_args(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "key, option", [("SOLVER.MAX_ITER", "--epochs"), ("SOLVER.IMS_PER_BATCH", "--batch-size")]
)
def test_overrides_must_not_set_keys_of_options(key, option, tmp_path):
    args = table3.parse_args(["--output", str(tmp_path), "--opts", key, "4"])
    with pytest.raises(ValueError, match=f"{key} is set by {option}: leave it out"):
        table3.plan(args)


def load_line(line, overrides=()):
    return load_config(config_path(f"cls/{line.config}"), [*line.overrides(), *overrides])


@pytest.mark.parametrize("suite", table3.SUITES)
def test_the_lines_of_a_suite_have_its_backbone_topology_and_method(suite):
    dataset = suite.removesuffix("_small").removesuffix("_vit_b16")
    for key, line in table3.SUITES[suite].items():
        assert line.config.startswith(f"{dataset}_flow")
        assert tuple(line_key(load_line(line)).values()) == key


def test_the_small_suite_has_few_images_and_epochs(monkeypatch):
    planned = []
    monkeypatch.setattr(Run, "plan", lambda *arguments: planned.append(arguments))
    args = table3.parse_args(["--suite", "cifar10_small", "SOLVER.BASE_LR", "1"])
    cfgs = []
    for backbone, epochs in (("cnn", 6), ("vit", 3)):
        line = table3.SUITES["cifar10_small"][backbone, "parallel", "flow"]
        table3.plan_run(args, line, backbone, 0)
        file, budget, _, _, overrides, name = planned[-1]
        assert (budget.batch_size, budget.epochs) == (64, epochs)
        assert name == f"{backbone}_parallel_flow"
        cfgs.append(load_config(file, overrides))
    for cfg in cfgs:
        assert cfg.DATASETS.TRAIN == ("cifar10_subset_train",)
        assert (cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.BASE_LR) == (1, 1.0)
    cnn, vit = cfgs
    assert cnn.MODEL.CNN.CHANNELS == [32, 96, 256]
    assert (cnn.MODEL.FLOW_CLS.BLOCK_DIM, vit.MODEL.FLOW_CLS.BLOCK_DIM) == (512, 1024)


def test_every_topology_is_compared_with_backprop(monkeypatch):
    monkeypatch.setattr(table3, "plan_run", lambda args, line, backbone, seed: line)
    monkeypatch.setattr("flowdet.experiments.comparison.Comparison", lambda runs, jobs: runs)
    words = ["--suite", "cifar100", "--backbones", "cnn", "--topologies", "sequential"]
    lines = table3.plan(table3.parse_args([*words, "--seeds", "1"]))
    keys = [tuple(line_key(load_line(line)).values()) for line in lines]
    assert keys == [
        ("cnn", "sequential", "flow"),
        ("cnn", "sequential", "flow_paper"),
        ("cnn", "parallel", "backprop"),
    ]
