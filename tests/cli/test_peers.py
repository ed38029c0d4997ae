"""tools/peers.py: several methods at equal epochs and at equal seconds."""

import json

import pytest

from flowdet.cli import peers
from tests.cli.commands import NO_REPORT, SMALL

TINY = [*SMALL, *NO_REPORT, "MODEL.FLOW_DET.NUM_BLOCKS", "2", "TEST.BATCH_SIZE", "4"]


def test_two_methods_on_the_digits(run, tmp_path, trainings_in_process, monkeypatch):
    monkeypatch.setattr("flowdet.experiments.peer_costs.ROUNDS", 2)
    words = ("tools/peers.py", "--methods", "flow=digits_flow", "backprop=digits_backprop")
    words += ("--epochs", 1, "--search-lr", "1e-3", "--seeds", 1, "--output", tmp_path)
    keys = ("MODEL.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", 2, "TEST.EVAL_EPOCHS", 1, *TINY)
    status, output = run(*words, *keys)
    assert status == 0, output
    assert "mean over all classes" in output and "Search of the learning rate" in output
    table = (tmp_path / "peers.md").read_text()
    assert "| 1 epochs | backprop" in table and "Made by `tools/peers.py --methods" in table
    content = json.loads((tmp_path / "peers.json").read_text())
    by_metric = {}
    for row in content["rows"]:
        by_metric.setdefault(row["metric"], []).append(row)
        assert {"method", "dataset", "mean", "std", "n"} <= row.keys()
    costs = {"trained_parameters", "activation_bytes", "ms_per_image", "best_base_lr"}
    for metric in costs:
        assert [row["method"] for row in by_metric[metric]] == ["flow", "backprop"]
    assert all(row["weights"] == "trained" for row in by_metric["ms_per_image"])
    assert all(row["mean"] == 0 for row in by_metric["missing_runs"])
    # a run of each method, and a line of the table
    assert len(by_metric["AP50"]) == 2 * (1 + 1)
    assert all(row["mean"] > 0 for row in by_metric["train_seconds"])
    curve = next(row for row in by_metric["AP"] if "seed" in row)
    assert curve["curve_iterations"] == [4] and len(curve["curve_seconds"]) == 1
    assert (tmp_path / "peers.png").is_file() and (tmp_path / "peers.svg").is_file()

    # the runs are known from the file alone
    elsewhere = (*words[:-1], tmp_path / "elsewhere", "--results", tmp_path / "peers.json")
    status, output = run(*elsewhere, *keys)
    assert status == 0, output
    assert not list((tmp_path / "elsewhere").glob("*/config.yaml"))
    assert json.loads((tmp_path / "peers.json").read_text())["rows"] == content["rows"]


def test_seeds_of_each_method():
    methods = ["flow", "backprop", "fcos"]
    for words in (["1", "flow=3"], ["flow=3", "*=1"]):
        assert peers.seeds_per_method(words, methods) == {"flow": 3, "backprop": 1, "fcos": 1}
    assert peers.seeds_per_method(["flow=3"], ["flow"]) == {"flow": 3}


@pytest.mark.parametrize(
    "words, message",
    [
        (["flow=3"], "backprop has no number of seeds"),
        (["flow=0", "1"], "'flow=0' is not valid"),
        (["=2"], "'' is not compared, only flow, backprop"),
        (["1", "2"], "'2' is not valid: use N or METHOD=N with N at least 1, each once"),
        (["1", "fcos=2"], "'fcos' is not compared, only flow, backprop"),
    ],
)
def test_wrong_seeds(words, message):
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        peers.seeds_per_method(words, ["flow", "backprop"])


def test_seconds_of_an_epoch():
    methods = ["flow", "fcos"]
    assert peers.seconds_per_method(["fcos=80", "flow=44.5"], methods) == {"flow": 44.5, "fcos": 80}
    for words, message in (
        (["44"], "'44' is not valid: use METHOD=S, each method once, with one of flow, fcos"),
        (["flow=1", "flow=2"], "'flow=2' is not valid"),
        (["detr=1"], "'detr=1' is not valid"),
        (["flow=fast"], "--epoch-seconds: flow must be a positive number, got 'fast'"),
        (["flow=0"], "flow must be a positive number, got '0'"),
    ):
        with pytest.raises(ValueError, match=message):
            peers.seconds_per_method(words, methods)


def test_configs_of_the_methods():
    words = ["flow", "flow_paper", "mine=my/config.yaml"]
    assert peers.method_configs(words) == {
        "flow": "voc_flow_r18_frozen",
        "flow_paper": "paper/voc_flow_r18_frozen",
        "mine": "my/config.yaml",
    }
    with pytest.raises(ValueError, match="flow is given twice"):
        peers.method_configs(["flow", "flow=other"])
    with pytest.raises(ValueError, match="'a/b=flow' has no valid name"):
        peers.method_configs(["a/b=flow"])
    with pytest.raises(ValueError, match="unknown method 'detr': use one of flow, .*NAME=CONFIG"):
        peers.method_configs(["detr"])


@pytest.mark.parametrize(
    "words, message",
    [
        (("--methods", "flow=none"), "there is no config file 'none'"),
        (("--epochs", "0"), "--epochs: must be a positive number, got '0'"),
        (("--search-lr", "1e-3", "SOLVER.BASE_LR", "1"), "SOLVER.BASE_LR is set by --search-lr"),
        (("SOLVER.MAX_EPOCHS", "1"), "SOLVER.MAX_EPOCHS is set by --epochs"),
        (("--data", "here", "DATASETS.PATH", "there"), "DATASETS.PATH is set by --data"),
        (("--merge", "none.json", "--methods", "flow"), "there is no result file none.json"),
        (("--results", "table.md"), "--results must be a .json file, got table.md"),
    ],
)
def test_an_error_of_the_user_writes_nothing(run, tmp_path, words, message):
    status, output = run("tools/peers.py", "--output", tmp_path / "out", *words)
    assert status != 0
    assert message in output
    assert not (tmp_path / "out").exists()
