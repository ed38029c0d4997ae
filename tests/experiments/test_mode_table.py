import json

import pytest

from flowdet.engine import load_config
from flowdet.engine.config import overlay_overrides
from flowdet.experiments.comparison import Budget, Run
from flowdet.experiments.mode_table import line_key, mode_rows, mode_table
from flowdet.reporting.results import result_rows
from tests.detection.tiny import CONFIGS

TINY = [
    *("DATASETS.TRAIN", "('sklearn_digits_train',)", "DATASETS.TEST", "('sklearn_digits_test',)"),
    *("MODEL.DEVICE", "cpu", "MODEL.CNN.CHANNELS", "[4,4,4]", "MODEL.FLOW_CLS.BLOCK_DIM", "8"),
    *("MODEL.VIT.HIDDEN_DIM", "8", "MODEL.FLOW_CLS.HIDDEN_DIM", "8", "MODEL.VIT.NUM_HEADS", "2"),
]
# the results of a flow classifier with three blocks; `top1` is that of the configured mode
MODES = {
    "top1": 50.0,
    "top1-ensemble": 50.0,
    "top5-ensemble": 80.0,
    "top1-single_step-0": 41.0,
    "top1-single_step-1": 42.0,
    "top1-single_step-2": 43.0,
    "top1-multi_step-1": 51.0,
    "top1-multi_step-2": 52.0,
    "top1-multi_step-3": 53.0,
    "top1-multi_step-6": 56.0,
    "top1-multi_step_ensemble-3": 63.0,
    "top1-probe": 70.0,
}


@pytest.fixture
def plan(tmp_path):
    """Plans a run of a config with overlays, named after its line in the table."""

    def build(config, *overlays, seed=0):
        file = str(CONFIGS / "cls" / f"{config}.yaml")
        overrides = [x for name in overlays for x in overlay_overrides(f"cls/bases/{name}")]
        name = "_".join(line_key(load_config(file, overrides)).values())
        return Run.plan(file, Budget(16, 2), seed, tmp_path, [*overrides, *TINY], name)

    return build


def finish(run, metrics, averaged=None):
    """Writes the files of a finished training."""
    tasks = {"classification": metrics}
    if averaged:
        tasks["classification_ema"] = averaged
    rows = result_rows(run.cfg, run.cfg.DATASETS.TEST[0], tasks)
    run.folder.mkdir()
    (run.folder / "results.json").write_text(json.dumps({"rows": rows}))
    records = [{"iteration": 19, "time": 0.5}, {"iteration": 99, "time": 0.25}]
    (run.folder / "metrics.json").write_text("\n".join(map(json.dumps, records)))


def add(metrics, number):
    return {name: value + number for name, value in metrics.items()}


def cells(table):
    """The cells of the lines below the header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.mark.parametrize(
    "config, overlays, name",
    [
        ("cifar10_flow_cnn", [], "cnn_parallel_flow"),
        ("cifar10_flow_cnn", ["sequential", "paper"], "cnn_sequential_flow_paper"),
        ("cifar10_flow_vit", ["backprop"], "vit_parallel_backprop"),
    ],
)
def test_names_of_runs(plan, config, overlays, name):
    assert plan(config, *overlays, seed=1).folder.name == f"{name}_seed1"


def test_rows_of_every_mode_over_seeds(plan):
    runs = [plan("cifar10_flow_cnn", seed=seed) for seed in (0, 1, 2)]
    finish(runs[0], MODES)
    finish(runs[1], add(MODES, 2.0))
    rows = mode_rows(runs)
    ensemble = {"weights": None, "metric": "top1", "mode": "ensemble"}
    (row,) = [r for r in rows if ensemble.items() <= ({"weights": None} | r).items()]
    assert (row["mean"], row["std"], row["n"]) == (51.0, 1.41, 2)
    key = {"backbone": "cnn", "topology": "parallel", "method": "flow", "num_blocks": 3}
    assert all(key.items() <= row.items() for row in rows)
    blocks = {row["block"]: row["mean"] for row in rows if row.get("mode") == "single_step"}
    assert blocks == {0: 42.0, 1: 43.0, 2: 44.0}
    # no second row for the configured mode
    assert sum("mode" in row for row in rows) == len(MODES) - 1
    others = {row["metric"]: row for row in rows if "mode" not in row}
    assert (others["missing_runs"]["mean"], others["missing_runs"]["n"]) == (1, 3)
    assert others["trained_parameters"]["mean"] > 100
    assert (others["training_seconds"]["mean"], others["training_seconds"]["n"]) == (30.0, 2)


def test_one_line_per_backbone_topology_and_method(plan):
    flow, sequential = plan("cifar10_flow_cnn"), plan("cifar10_flow_cnn", "sequential")
    backprop = plan("cifar10_flow_vit", "backprop")
    finish(flow, MODES)
    finish(backprop, {"top1": 90.0, "top1-head": 90.0, "top1-probe": 88.0})
    table = mode_table(mode_rows([flow, sequential, backprop]), style="github")
    first, second, third = cells(table)
    assert first[:5] == ["cnn", "parallel", "flow", "3", "raw"]
    probe, head, last_block = "70.0", "-", "43.0"
    assert first[5:14] == [probe, head, last_block, "50.0", "51.0", "52.0", "53.0", "56.0", "63.0"]
    assert (first[14], first[-1]) == ("2", "1")
    assert second[1] == "sequential" and second[5:14] == ["-"] * 9
    assert second[-1] == "0 (1 failed or not run)"
    assert third[:3] == ["vit", "parallel", "backprop"]
    assert third[5:14] == ["88.0", "90.0", *["-"] * 7]


def test_averaged_weights(plan):
    averaged, plain = plan("cifar10_flow_cnn"), plan("cifar10_flow_vit")
    finish(averaged, MODES, add(MODES, 5.0))
    finish(plain, MODES)
    rows = mode_rows([averaged, plain])
    ema = [row for row in rows if row.get("weights") == "ema"]
    assert len(ema) == len(MODES) - 1 and {row["backbone"] for row in ema} == {"cnn"}
    probes = [(line[4], line[5]) for line in cells(mode_table(rows, style="github"))]
    assert probes == [("raw", "70.0"), ("raw", "70.0")]
    # a model without averaged weights shows its raw weights
    probes = [(line[4], line[5]) for line in cells(mode_table(rows, "ema", "github"))]
    assert probes == [("ema", "75.0"), ("raw", "70.0")]
