from types import SimpleNamespace

import pytest

from flowdet.config.config_files import config_path
from flowdet.engine import load_config
from flowdet.experiments import method_table as module
from flowdet.experiments.comparison_table import trained_parameters
from flowdet.experiments.method_table import cited_accuracy, method_rows, method_table
from tests.experiments.test_mode_table import add, finish, plan  # noqa: F401

CPU = ["MODEL.DEVICE", "cpu"]
FLOW = {"top1": 50.0, "top5": 80.0, "top10": 90.0, "top1-ensemble": 50.0, "top1-probe": 70.0}
FF = {"top1": 60.0, "top5": 85.0, "top10": 95.0, "top1-goodness": 60.0, "top1-readout": 64.0}


@pytest.fixture
def runs(plan, monkeypatch):  # noqa: F811
    memory = SimpleNamespace(activation=3 * 2**20)
    monkeypatch.setattr(module, "measure_step", lambda cfg, batch_size: memory)
    flow = [plan("digits_flow_cnn", seed=seed) for seed in (0, 1)]
    ff = [plan("baselines/digits_ff_cnn", seed=seed) for seed in (0, 1)]
    finish(flow[0], FLOW)
    finish(flow[1], add(FLOW, 2))
    finish(ff[0], FF)
    return flow + ff


def test_rows_have_every_mode_and_the_costs(runs):
    rows = method_rows(runs)
    flow = {(row["metric"], row.get("mode")): row for row in rows if row["method"] == "flow"}
    assert flow["top1", "default"]["mean"] == 51.0
    assert flow["top1", "default"]["std"] == pytest.approx(1.41)
    assert flow["top1", "probe"]["n"] == 2
    assert flow["activation_bytes", None]["mean"] == 3 * 2**20
    assert flow["trained_parameters", None]["mean"] > 0
    missing = {row["method"]: row["mean"] for row in rows if row["metric"] == "missing_runs"}
    assert missing == {"flow": 0, "ff": 1}


def test_a_method_without_a_finished_run_has_only_the_row_of_missing_runs(plan):  # noqa: F811
    rows = method_rows([plan("baselines/digits_ff_cnn")])
    assert [row["metric"] for row in rows] == ["missing_runs"]
    assert "1 failed or not run" in method_table(rows)


def test_the_table_shows_the_configured_mode_and_the_read_out(runs):
    lines = method_table(method_rows(runs), style="tsv").splitlines()
    cells = [[cell.strip() for cell in line.split("\t")] for line in lines]
    assert cells[1][:7] == ["cnn", "flow", "51.0 +- 1.4", "81.0 +- 1.4", "91.0 +- 1.4"] + [
        "71.0 +- 1.4",
        "-",
    ]
    assert cells[2][:7] == ["cnn", "ff", "60.0", "85.0", "95.0", "64.0", "-"]
    assert cells[2][8] == "3.0" and cells[2][-1] == "1 (1 failed or not run)"


@pytest.mark.parametrize(
    "dataset, backbone, method, cited",
    [
        ("cifar10_test", "vit", "cff_margin", (80.42, 1)),
        ("cifar100_test", "cnn", "noprop_dt", (47.8, 5)),
        ("tiny_imagenet_val", "vit", "flow", (55.44, 10)),
        ("mnist_test", "cnn", "softhebb", (99.35, 1)),
        # a part of the dataset is not the dataset of the paper
        ("cifar10_subset_test", "vit", "flow", None),
        ("cifar100_test", "cnn", "ff", None),
        ("sklearn_digits_test", "vit", "flow", None),
    ],
)
def test_cited_accuracies_are_those_of_the_paper(dataset, backbone, method, cited):
    assert cited_accuracy(dataset, backbone, method) == cited


def test_hebbian_parameters_are_trained_parameters():
    words = ["MODEL.CNN.CHANNELS", "[4, 4]", "MODEL.FLOW_CLS.NUM_CLASSES", "10"]
    cfg = load_config(config_path("cls/baselines/digits_softhebb_cnn"), [*words, *CPU])
    # 5x5 and 3x3 convolutions without bias, and a linear read-out of 4 x 4 x 4 features
    convolutions = 4 * 3 * 25 + 4 * 4 * 9
    grid = cfg.MODEL.LOCAL_LEARNING.READOUT_GRID
    assert trained_parameters(cfg) == convolutions + 10 * (4 * grid**2 + 1)
