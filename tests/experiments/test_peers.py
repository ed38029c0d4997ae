"""Comparisons of several methods whose trainings are a short script."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowdet.experiments import peers
from flowdet.experiments.peers import PeerComparison
from flowdet.experiments.peers_table import mean_curve, peers_figure, peers_table, search_table
from flowdet.experiments.run_record import RunRecord
from tests.detection.tiny import CONFIGS


class StubTraining:
    """Replaces the process of a training.

    AP is best for a learning rate of 0.002, an epoch takes 1 second (4 for backprop), and the run
    named by the variable FAIL fails.
    """

    def __init__(self, words, stdout, **_):
        keys = dict(zip(words[3::2], words[4::2]))
        folder = Path(keys["OUTPUT_DIR"])
        with open(folder.parent / "calls", "a", encoding="utf-8") as calls:
            calls.write(f"{folder.name}\n")
        self.returncode = int(folder.name == os.environ.get("FAIL"))
        if self.returncode:
            stdout.write("error: out of luck")
            return
        ap = 50 - 10000 * abs(float(keys["SOLVER.BASE_LR"]) - 0.002) + int(keys["SEED"])
        values = {"AP50": ap, "AP75": ap - 10, "AP": ap - 20}
        iterations = int(keys.get("SOLVER.MAX_ITER") or 2 * int(keys["SOLVER.MAX_EPOCHS"]))
        time = 2.0 if "backprop" in folder.name else 0.5
        records = [{"iteration": i, "time": time} for i in range(iterations)]
        for iteration, factor in ((0, 0.5), (iterations, 1.0)):
            scalars = {f"bbox/{key}": factor * value for key, value in values.items()}
            records.append({"iteration": iteration} | scalars)
        (folder / "metrics.json").write_text("\n".join(map(json.dumps, records)))
        rows = [
            {"dataset": "compared_pets", "metric": key, "mean": value}
            for key, value in values.items()
        ]
        (folder / "results.json").write_text(json.dumps({"rows": rows}))

    def poll(self):
        return self.returncode


COST = {"metric": "trained_parameters", "mean": 1234567, "std": None, "n": 1}


@pytest.fixture
def stubs(monkeypatch):
    """Replaces the trainings and the measurement of the costs."""
    stub = SimpleNamespace(Popen=StubTraining, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("flowdet.experiments.comparison.subprocess", stub)
    monkeypatch.setattr(
        peers, "cost_rows", lambda runs, _: {method: [COST | {"method": method}] for method in runs}
    )


@pytest.fixture
def compare(tmp_path, overrides, stubs):
    """Builds a comparison of flow and backprop on 8 images, which are two iterations an epoch."""

    def build(session="one", extra=(), methods=("flow", "backprop"), **settings):
        settings = {"epochs": [2], "seeds": dict.fromkeys(methods, 1)} | settings
        return PeerComparison(
            {method: str(CONFIGS / f"digits_{method}.yaml") for method in methods},
            tmp_path / session,
            tmp_path / "peers.json",
            ["SOLVER.IMS_PER_BATCH", "4", *overrides, *extra],
            train_command=[],
            **settings,
        )

    return build


def calls(tmp_path, session="one"):
    path = tmp_path / session / "calls"
    return path.read_text().split() if path.is_file() else []


def line_rows(tmp_path, metric):
    rows = json.loads((tmp_path / "peers.json").read_text())["rows"]
    return {(r["budget"], r["method"]): r for r in rows if "budget" in r and r["metric"] == metric}


def test_budgets_and_seeds(compare, tmp_path):
    comparison = compare(epochs=[4, 2], seeds={"flow": 3, "backprop": 1})
    comparison.train()
    assert not comparison.failed and not comparison.failures
    ap = line_rows(tmp_path, "AP50")
    assert [(*key, row["n"]) for key, row in ap.items()] == [
        ("2 epochs", "flow", 3),
        ("2 epochs", "backprop", 1),
        ("4 epochs", "flow", 3),
        ("4 epochs", "backprop", 1),
    ]
    # AP50 is 40 for the learning rate of flow, 0.001, plus the seed
    assert (ap["2 epochs", "flow"]["mean"], ap["2 epochs", "flow"]["std"]) == (41.0, 1.0)
    assert ap["2 epochs", "backprop"]["std"] is None
    seconds = line_rows(tmp_path, "train_seconds")
    assert seconds["2 epochs", "flow"]["mean"] == pytest.approx(2 * 2 * 0.5)
    assert seconds["4 epochs", "backprop"]["mean"] == pytest.approx(4 * 2 * 2.0)


def test_the_best_learning_rate_is_used_for_all_further_runs(compare, tmp_path):
    comparison = compare(learning_rates=[1e-3, 2e-3, 4e-3], epochs=[2, 4])
    comparison.train()
    assert {row["base_lr"] for row in line_rows(tmp_path, "AP50").values()} == {2e-3}
    searches = RunRecord.read(tmp_path / "peers.json").searches
    assert searches["flow"]["searched"] == [1e-3, 2e-3, 4e-3]
    assert searches["flow"]["searched_AP"] == pytest.approx([20.0, 30.0, 10.0])
    assert searches["backprop"]["mean"] == 2e-3
    # the run of the search is also the run of the first budget
    assert len(calls(tmp_path)) == 2 * (3 + 1)
    _, _, flow, _ = search_table(comparison.record, "AP", "github").splitlines()
    cells = [cell.strip() for cell in flow.split("|")[1:-1]]
    assert cells == ["flow", "2", "20.0", "30.0", "10.0", "0.002"]


@pytest.mark.parametrize(
    "rates, best",
    [
        ([2e-3, 4e-3], "0.002 (the lowest searched)"),
        ([1e-3, 2e-3], "0.002 (the highest searched)"),
        ([2e-3], "0.002"),
    ],
)
def test_the_table_says_that_the_best_learning_rate_is_at_the_end(compare, rates, best):
    comparison = compare(learning_rates=rates, methods=["flow"])
    comparison.train()
    _, _, line = search_table(comparison.record, "AP", "github").splitlines()
    assert line.split("|")[-2].strip() == best


def test_runs_whose_names_would_be_the_same_are_an_error(compare):
    with pytest.raises(ValueError, match="two runs would have the folder .*flow_2epochs_lr0.001"):
        compare(methods=["flow"], learning_rates=[1e-3, 1.00000001e-3])


def test_a_later_search_keeps_the_recorded_learning_rates(compare, tmp_path):
    compare(learning_rates=[1e-3, 2e-3, 4e-3], seeds={"flow": 2, "backprop": 1}).train()
    comparison = compare("two", learning_rates=[3e-3, 1e-3], methods=["flow"], epochs=[2, 4])
    comparison.train()
    # 1e-3 and 3e-3 have the same AP in these runs; the first value is used
    assert calls(tmp_path, "two") == ["flow_2epochs_lr0.003_seed0", "flow_4epochs_lr0.003_seed0"]
    searches = RunRecord.read(tmp_path / "peers.json").searches
    assert searches["flow"]["searched"] == [1e-3, 2e-3, 3e-3, 4e-3] and searches["flow"]["n"] == 4
    assert searches["flow"]["searched_AP"] == pytest.approx([20.0, 30.0, 20.0, 10.0])
    assert searches["flow"]["base_lr"] == 3e-3
    assert searches["backprop"]["searched"] == [1e-3, 2e-3, 4e-3]
    (note,) = comparison.failures
    assert "flow is trained with the learning rate 0.003 (AP 20.0 in the search)" in note
    assert "also has 0.002 (30.0): add it to --search-lr" in note
    # no note if the better value is listed
    comparison = compare("three", learning_rates=[1e-3, 2e-3], methods=["flow"])
    comparison.train()
    assert not comparison.failures and calls(tmp_path, "three") == []
    assert comparison.record.searches["flow"]["searched"] == [1e-3, 2e-3, 3e-3, 4e-3]


def test_a_search_of_other_epochs_has_its_own_values(compare, tmp_path):
    compare(learning_rates=[1e-3, 2e-3], methods=["flow"]).train()
    comparison = compare("two", learning_rates=[1e-3], methods=["flow"], epochs=[4])
    comparison.train()
    row = comparison.record.searches["flow"]
    assert (row["epochs"], row["searched"]) == (4, [1e-3]) and not comparison.failures


def test_merged_searches_have_the_learning_rates_of_both_files(compare, tmp_path):
    compare(learning_rates=[1e-3, 2e-3], methods=["flow"]).train()
    (tmp_path / "peers.json").rename(tmp_path / "first.json")
    compare("two", learning_rates=[1e-3, 4e-3], methods=["flow"]).train()
    comparison = compare("three", methods=["flow"], merged=[tmp_path / "first.json"])
    row = comparison.record.searches["flow"]
    assert row["searched"] == [1e-3, 2e-3, 4e-3] and row["mean"] == row["base_lr"] == 2e-3
    assert row["searched_AP"] == pytest.approx([20.0, 30.0, 10.0])


def test_budgets_in_seconds_take_the_measured_time_of_the_first_runs(compare, tmp_path):
    comparison = compare(epochs=[4, 2], seconds=[10])
    comparison.train()
    epochs = {m: row["epochs"] for (b, m), row in line_rows(tmp_path, "AP50").items() if "sec" in b}
    assert epochs == {"flow": 10, "backprop": 2.5}
    seconds = line_rows(tmp_path, "train_seconds")
    assert seconds["10 seconds", "flow"]["mean"] == pytest.approx(10)
    assert seconds["10 seconds", "backprop"]["mean"] == pytest.approx(10)
    assert seconds["10 seconds", "backprop"]["seconds_per_epoch"] == pytest.approx(4)


def test_runs_that_are_trained_at_the_same_time_have_no_times(compare, tmp_path):
    comparison = compare(epochs=[2, 4], seeds={"flow": 3, "backprop": 2}, seconds=[10], jobs=4)
    comparison.train()
    assert not comparison.failed and len(calls(tmp_path)) == 2 * (3 + 2)
    assert line_rows(tmp_path, "AP50")["4 epochs", "flow"]["n"] == 3
    assert line_rows(tmp_path, "train_seconds") == {}
    assert len(comparison.failures) == 2
    assert "flow has no budget of 10 seconds: its runs have no times" in comparison.failures[0]
    rows = json.loads((tmp_path / "peers.json").read_text())["rows"]
    assert not any("curve_seconds" in row for row in rows)
    # costs are measured by a later call
    assert not comparison.record.costs


def test_times_of_another_machine(compare, tmp_path):
    """Seconds of an epoch are given: 5 for flow, 20 for backprop."""
    given = {"flow": 5.0, "backprop": 20.0}
    compare(epochs=[2], seconds=[50], jobs=2, epoch_seconds=given).train()
    ap, seconds = line_rows(tmp_path, "AP50"), line_rows(tmp_path, "train_seconds")
    assert ap["50 seconds", "flow"]["epochs"] == 10
    assert ap["50 seconds", "backprop"]["epochs"] == 2.5
    assert seconds["2 epochs", "flow"]["mean"] == pytest.approx(10)
    assert seconds["50 seconds", "backprop"]["mean"] == pytest.approx(50)
    rows = json.loads((tmp_path / "peers.json").read_text())["rows"]
    runs = [row for row in rows if "seed" in row and row["method"] == "flow"]
    assert {row["epoch_seconds"] for row in runs} == {5.0}
    assert {row["curve_seconds"][-1] for row in runs if "curve" in row} == {10, 50}


def test_a_budget_in_seconds_keeps_its_epochs_in_later_sessions(compare, tmp_path):
    compare(epochs=[2], seconds=[10], methods=["flow"]).train()
    path = tmp_path / "peers.json"
    content = json.loads(path.read_text())
    for row in content["rows"]:
        # as if later seeds had been trained on a machine with twice the speed
        if row["metric"] == "train_seconds" and row["epochs"] == 2 and "seed" in row:
            row["mean"] /= 2
    path.write_text(json.dumps(content))
    compare(epochs=[2], seconds=[10], methods=["flow"], session="two").train()
    assert calls(tmp_path, "two") == []
    assert line_rows(tmp_path, "AP50")["10 seconds", "flow"]["epochs"] == 10


def test_another_learning_rate_has_its_own_epochs_of_a_budget_in_seconds(compare, tmp_path):
    one = {"methods": ["flow"], "seconds": [10]}
    compare(learning_rates=[1e-3], **one).train()
    compare("two", learning_rates=[2e-3], epoch_seconds={"flow": 2.0}, **one).train()
    assert line_rows(tmp_path, "AP50")["10 seconds", "flow"]["epochs"] == 5


def test_other_seconds_of_an_epoch_than_those_of_recorded_runs_are_an_error(compare, tmp_path):
    one = {"methods": ["flow"], "seconds": [50]}
    compare(epoch_seconds={"flow": 5.0}, **one).train()
    compare("two", epoch_seconds={"flow": 5.0}, **one).train()
    with pytest.raises(ValueError, match=r"runs of flow with --epoch-seconds flow=5, but .*flow=8"):
        compare("three", epoch_seconds={"flow": 8.0}, **one)


def test_recorded_runs_are_not_trained_again_without_their_folders(compare, tmp_path):
    compare().train()
    comparison = compare("two", seeds={"flow": 2, "backprop": 1})
    comparison.train()
    assert calls(tmp_path, "two") == ["flow_2epochs_lr0.001_seed1"]
    assert line_rows(tmp_path, "AP50")["2 epochs", "flow"]["n"] == 2
    # a session with one method and one seed keeps the other lines and seeds
    compare("three", methods=["flow"]).train()
    assert ("2 epochs", "backprop") in line_rows(tmp_path, "AP50")
    missing = line_rows(tmp_path, "missing_runs")["2 epochs", "flow"]
    assert (missing["mean"], missing["n"]) == (0, 2)


def test_the_result_file_is_written_after_every_run(compare, tmp_path, monkeypatch):
    recorded = []

    def stop_after_two(self, method, run):
        self.record.add(method, run)
        self._write()
        recorded.append(run.name)
        if len(recorded) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PeerComparison, "_record", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            compare(epochs=[2], learning_rates=[1e-3, 2e-3]).train()
    record = RunRecord.read(tmp_path / "peers.json")
    assert sorted(record.runs) == [
        ("flow_2epochs_lr0.001", 0),
        ("flow_2epochs_lr0.002", 0),
    ]
    compare(epochs=[2], learning_rates=[1e-3, 2e-3]).train()
    assert len(calls(tmp_path)) == 4


def test_files_of_two_sessions_are_merged(compare, tmp_path):
    compare(methods=["flow"]).train()
    (tmp_path / "peers.json").rename(tmp_path / "first.json")
    compare("two", methods=["backprop"]).train()
    compare("three", merged=[tmp_path / "first.json"]).train()
    assert calls(tmp_path, "three") == []
    assert set(line_rows(tmp_path, "AP50")) == {("2 epochs", "flow"), ("2 epochs", "backprop")}

    content = json.loads((tmp_path / "first.json").read_text())
    for row in content["rows"]:
        row["mean"] += "seed" in row
    (tmp_path / "first.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="first.json: flow_.* with seed 0 has other results than"):
        compare("three", merged=[tmp_path / "first.json"])


def test_a_recorded_run_of_another_config_is_an_error_or_replaced(compare, tmp_path):
    compare(epochs=[2]).train()
    changed = {"extra": ["MODEL.FLOW_DET.NOISE_SCALE", "0.1"], "epochs": [4]}
    message = r"has a run flow_2epochs_lr0.001 of another config: .*NOISE_SCALE 0.3 \(here 0.1\)"
    with pytest.raises(ValueError, match=message):
        compare("two", **changed)
    compare("two", **changed, replace=True).train()
    assert {key[0] for key in line_rows(tmp_path, "AP50")} == {"4 epochs"}
    # a run of a merged file
    (tmp_path / "peers.json").rename(tmp_path / "first.json")
    with pytest.raises(ValueError, match="peers.json or .*first.json has a run flow_4epochs_"):
        compare("four", merged=[tmp_path / "first.json"])
    (tmp_path / "first.json").rename(tmp_path / "peers.json")
    # the runs of the new config are kept by the next call
    compare("three", **changed, replace=True).train()
    assert calls(tmp_path, "three") == []


def test_dropped_runs_take_lines_searches_and_costs_with_them(compare):
    comparison = compare(learning_rates=[1e-3, 2e-3])
    comparison.train()
    record = comparison.record
    record.drop([name for name, _ in record.runs if name.startswith("flow")])
    assert {name for name, _ in record.runs} == {*record.settings}
    assert {run.method for run in record.runs.values()} == {"backprop"}
    assert [method for _, method in record.lines] == ["backprop"]
    assert [*record.searches] == [*record.costs] == ["backprop"]


def test_keys_of_the_machine_and_the_schedule_do_not_make_another_config(compare, tmp_path):
    compare(epochs=[2]).train()
    extra = ["DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_EPOCHS", "1"]
    compare("two", extra=extra, epochs=[2, 4]).train()
    assert len(calls(tmp_path, "two")) == 2


def test_results_of_another_dataset(compare, tmp_path, voc_dataset):
    compare(methods=["flow"]).train()
    voc_dataset({"a": [((1, 2, 20, 30), "dog", 0)]}, name="other_pets")
    extra = ["DATASETS.TRAIN", "('other_pets',)", "DATASETS.TEST", "('other_pets',)"]
    with pytest.raises(ValueError, match="results with dataset compared_pets, but .* other_pets"):
        compare("two", extra=extra, methods=["backprop"])


def test_failed_runs_are_named_and_trained_by_the_next_call(compare, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "flow_2epochs_lr0.001_seed1")
    seeds = {"flow": 2, "backprop": 2}
    comparison = compare(seeds=seeds)
    comparison.train()
    ((folder, why),) = comparison.failed.items()
    assert folder.name == "flow_2epochs_lr0.001_seed1" and "error: out of luck" in why
    assert line_rows(tmp_path, "missing_runs")["2 epochs", "flow"]["mean"] == 1
    assert "1 (1 failed or not run)" in peers_table(comparison.record, ["AP50"])
    monkeypatch.delenv("FAIL")
    comparison = compare(seeds=seeds)
    comparison.train()
    assert not comparison.failed
    assert line_rows(tmp_path, "missing_runs")["2 epochs", "flow"]["mean"] == 0


def test_a_method_without_a_finished_search_is_left_out(compare, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "flow_2epochs_lr0.001_seed0")
    comparison = compare(epochs=[2, 4], seconds=[10])
    comparison.train()
    assert len(comparison.failed) == 1
    assert comparison.failures == ["flow is left out: none of its first runs has finished"]
    assert {method for _, method in line_rows(tmp_path, "AP50")} == {"backprop"}


def test_table_and_figure(compare):
    comparison = compare(epochs=[2], seconds=[10], seeds={"flow": 2, "backprop": 1})
    comparison.train()
    header, _, *lines = peers_table(comparison.record, ["AP50", "AP75"], "github").splitlines()
    assert header.startswith("| budget") and "inference (ms per image)" in header
    assert [line.split()[1:4] for line in lines] == [
        ["2", "epochs", "|"],
        ["2", "epochs", "|"],
        ["10", "seconds", "|"],
        ["10", "seconds", "|"],
    ]
    cells = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert cells == [
        *("2 epochs", "flow", "2", "0.001", "40.5 +- 0.7", "30.5 +- 0.7"),
        *("2.0 +- 0.0", "", "1.23", "-", "-", "2"),
    ]
    seconds, values = mean_curve(comparison.record.seeds_of("flow_2epochs_lr0.001"), "AP50")
    assert seconds == pytest.approx([0.5, 2.0]) and values == pytest.approx([20.25, 40.5])
    figure = peers_figure(comparison.record, ["AP50", "AP"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["AP50", "AP"]
    assert len(figure.axes[0].lines) == 4


def test_a_file_of_another_kind_is_an_error(compare, tmp_path):
    path = tmp_path / "peers.json"
    for content in ("[]", "{", '{"rows": []}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="peers.json is not a result file of a comparison"):
            compare()


def test_averaged_weights_are_compared_if_a_run_has_them(compare, tmp_path):
    comparison = compare(methods=["flow"])
    (run,) = comparison.runs
    run.folder.mkdir(parents=True)
    rows = [
        {"dataset": "compared_pets", "metric": name, "mean": mean} | weights
        for mean, weights in ((10.0, {}), (20.0, {"weights": "ema"}))
        for name in ("AP50", "AP75", "AP")
    ]
    (run.folder / "results.json").write_text(json.dumps({"rows": rows}))
    comparison.train()
    assert line_rows(tmp_path, "AP50")["2 epochs", "flow"]["mean"] == 20.0
    (recorded,) = comparison.record.seeds_of(run.name)
    assert {row["weights"] for row in recorded.rows} == {"ema"}


def test_a_run_without_ap_is_an_error(compare):
    comparison = compare(methods=["flow"])
    (run,) = comparison.runs
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="results.json has no AP50: delete the run, and check"):
        comparison.train()
