import fcntl
import json
import os

import pytest

from flowdet.experiments.comparison import Budget, Run, group_seeds
from flowdet.experiments.comparison_table import accuracy_rows, comparison_table
from tests.detection.tiny import CONFIGS


def test_budgets():
    assert Budget.parse("8:6") == Budget(8, 6)
    assert Budget.parse("1:2:1e-4") == Budget(1, 2, 1e-4)
    assert Budget.parse("8:5.5") == Budget(8, 5.5)
    assert isinstance(Budget.parse("8:6.0").epochs, int)
    wrong = ("8", "8:0", "a:b", "8:inf", "8:nan", "0:4", "8:1:0", "8:1:-1e-4", "8:1:nan", "8:1:1:1")
    for text in wrong:
        with pytest.raises(ValueError, match=f"'{text}' is not a budget: use BATCH_SIZE:EPOCHS"):
            Budget.parse(text)


def test_runs_are_planned_from_the_dataset(compare):
    comparison = compare(budgets=["4:2", "1:1:1e-4"])
    first, *_, last = comparison.runs
    assert first.cfg.SOLVER.MAX_ITER == 4 and first.images == 16
    assert last.cfg.SOLVER.MAX_ITER == 8 and last.cfg.SOLVER.BASE_LR == 1e-4
    assert [run.folder.name for run in comparison.runs[:2]] == [
        "flow_batch4_seed0",
        "backprop_batch4_seed0",
    ]
    # both methods have the same data, optimizer and schedule; the budget sets the learning rate
    assert comparison.runs[-2].method != last.method
    assert comparison.runs[-2].cfg.SOLVER == last.cfg.SOLVER
    assert first.cfg.DATALOADER == comparison.runs[1].cfg.DATALOADER


def test_fraction_of_an_epoch(compare):
    # 8 images: two iterations per epoch
    (run,) = compare(budgets=["4:2.5"], seeds=[0], methods=["flow"]).runs
    assert run.cfg.SOLVER.MAX_ITER == 5 and run.images == 20
    # the overrides, which the training command gets, have the same number
    assert run.overrides[run.overrides.index("SOLVER.MAX_ITER") + 1] == "5"


def test_finished_runs_are_not_trained_again(compare):
    for _ in range(2):
        comparison = compare()
        comparison.train()
        assert not comparison.failed
    for run in comparison.runs:
        assert (run.folder / "calls").read_text() == "x"
        assert (run.folder / "output.txt").read_text() == "resuming\n"


@pytest.mark.parametrize(
    "jobs, given, used", [(1, None, "all"), (4, None, "2"), (16, None, "1"), (4, "3", "3")]
)
def test_runs_at_the_same_time_share_the_cores(compare, monkeypatch, jobs, given, used):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    comparison = compare(seeds=[0], jobs=jobs)
    comparison.train()
    assert {(run.folder / "threads").read_text() for run in comparison.runs} == {used}


def test_failed_runs_are_reported_and_trained_again(compare, monkeypatch):
    monkeypatch.setenv("FAIL_SEED", "1")
    comparison = compare()
    comparison.train()
    assert len(comparison.failed) == 2
    for folder, why in comparison.failed.items():
        assert why == f"exit status 1: error: out of luck (see {folder / 'output.txt'})"
    rows = accuracy_rows(comparison.runs, ["AP50"])
    missing = [row["mean"] for row in rows if row["metric"] == "missing_runs"]
    assert missing == [1, 1]
    assert "1 (1 failed or not run)" in comparison_table(rows, ["AP50"])
    monkeypatch.delenv("FAIL_SEED")
    comparison = compare()
    comparison.train()
    assert not comparison.failed
    assert (comparison.runs[0].folder / "calls").read_text() == "x"
    assert (comparison.runs[-1].folder / "calls").read_text() == "xx"


def test_interruption_stops_the_training_and_the_next_call_resumes(compare, monkeypatch):
    monkeypatch.setattr("flowdet.experiments.comparison._POLL_SECONDS", 0.1)
    monkeypatch.setenv("SLEEP", "1")
    comparison = compare(seeds=[0], methods=["flow"])
    (run,) = comparison.runs

    def interrupt_once_it_runs(self):
        if (self.folder / "pid").is_file() and (self.folder / "pid").read_text():
            raise KeyboardInterrupt
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(Run, "images_so_far", interrupt_once_it_runs)
        with pytest.raises(KeyboardInterrupt):
            comparison.train()
    with pytest.raises(ProcessLookupError):
        os.kill(int((run.folder / "pid").read_text()), 0)
    assert not run.done
    monkeypatch.delenv("SLEEP")
    comparison = compare(seeds=[0], methods=["flow"])
    comparison.train()
    assert run.done and not comparison.failed
    # a finished run needs no checkpoints to resume from
    assert not list(run.folder.glob("model_0*.pth"))


def test_one_training_at_a_time_in_a_folder(compare):
    comparison = compare(seeds=[0], methods=["flow"])
    (run,) = comparison.runs
    run.folder.mkdir(parents=True)
    with open(run.folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is training in"):
            comparison.train()
    comparison.train()
    assert run.done


def test_a_run_of_another_config_in_the_folder_is_an_error(compare):
    comparison = compare(seeds=[0], methods=["flow"])
    (run,) = comparison.runs
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    compare(seeds=[0], methods=["flow"])
    with pytest.raises(ValueError, match=r"another config: .*NOISE_SCALE 0.3 \(here 0.1\)"):
        compare(seeds=[0], methods=["flow"], extra=["MODEL.FLOW_DET.NOISE_SCALE", "0.1"])


def test_two_runs_in_one_folder(compare):
    with pytest.raises(ValueError, match="two runs have the same folder .*flow_batch4_seed0"):
        compare(budgets=["4:2", "4:3"], methods=["flow"])


def test_runs_of_one_name_differ_only_in_their_seed(compare, tmp_path, overrides):
    config, budget = str(CONFIGS / "digits_flow.yaml"), Budget(4, 2)
    named = Run.plan(config, budget, 3, tmp_path / "out", overrides, "mine")
    assert named.folder == tmp_path / "out" / "mine_seed3"
    groups = group_seeds([*compare().runs, named])
    assert [[run.seed for run in group] for group in groups] == [[0, 1], [0, 1], [3]]
    assert [group[0].method for group in groups] == ["flow", "backprop", "flow"]


def test_progress_counts_images(compare, tmp_path):
    (run,) = compare(seeds=[0], methods=["flow"]).runs
    assert run.images_so_far() == 0 and not run.done
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.json").write_text('{"iteration": 1, "total_loss": 1.0}\n{"iter')
    assert run.images_so_far() == 8
    assert run.last_output_line() == "it printed nothing"
    assert run.training_seconds() is None


def test_metrics_are_those_of_the_last_weights(compare):
    (run,) = compare(seeds=[0], methods=["flow"]).runs
    run.folder.mkdir(parents=True)
    row = {"dataset": "compared_pets", "metric": "AP50"}
    rows = [row | {"mean": 10.0}, row | {"mean": 20.0, "weights": "ema"}]
    (run.folder / "results.json").write_text(json.dumps({"rows": rows}))
    assert run.metrics() == {"AP50": 10.0}
