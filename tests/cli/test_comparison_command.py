"""What the commands share that train several runs."""

import json
import sys

import pytest

from flowdet.cli.comparison_command import (
    check_overrides,
    save_table,
    table_parser,
    train_and_report,
)
from flowdet.experiments.comparison import Budget, Comparison, Run
from tests.detection.tiny import CONFIGS

BUDGET_OPTIONS = {"SOLVER.MAX_ITER": "--budget"}


@pytest.fixture
def comparison(tmp_path):
    """A comparison of one run, whose training fails."""
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('error: out of luck')")
    config = str(CONFIGS / "cls" / "digits_flow_vit.yaml")
    run = Run.plan(config, Budget(16, 1), 1, tmp_path / "out", [])
    return Comparison([run], [sys.executable, str(script)])


@pytest.mark.parametrize(
    "key, option",
    [("SEED", "--seeds"), ("SOLVER.MAX_ITER", "--budget"), ("OUTPUT_DIR", "--output")],
)
def test_overrides_must_not_set_keys_of_options(key, option):
    check_overrides(["SOLVER.BASE_LR", "1"], BUDGET_OPTIONS)
    with pytest.raises(ValueError, match=f"{key} is set by {option}: leave it out"):
        check_overrides(["SOLVER.BASE_LR", "1", key, "1"], BUDGET_OPTIONS)


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_the_number_of_seeds_must_be_positive(number, capsys):
    with pytest.raises(SystemExit):
        table_parser("").parse_args(["--seeds", number])
    assert f"--seeds: must be at least 1, got {number!r}" in capsys.readouterr().err


def test_failed_runs_are_named_below_the_table(comparison, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/table9.py", "--seeds", "1"])
    rows = [{"metric": "top1", "mean": 1.0}]

    def report(finished):
        save_table(tmp_path / "out/table", finished, rows, "Caption", "<{}>".format, ["No time"])

    with pytest.raises(SystemExit, match="1 of 1 runs have failed"):
        train_and_report(lambda: comparison, report)
    (run,) = comparison.runs
    failure = f"FAILED {run.folder}, exit status 1: error: out of luck"
    assert failure in capsys.readouterr().out
    caption, table, failures, origin = (tmp_path / "out/table.md").read_text().split("\n\n")
    assert (caption, table) == ("Caption", "<github>")
    assert failures.startswith(failure) and failures.endswith("\nNo time")
    assert origin == "Made by `tools/table9.py --seeds 1`.\n"
    content = json.loads((tmp_path / "out/table.json").read_text())
    assert content["rows"] == rows and content["seeds"] == [1]


def test_the_caption_says_that_runs_shared_the_cores(comparison, tmp_path, capsys):
    comparison.jobs = 2
    save_table(tmp_path / "table", comparison, [], "Caption.", "<{}>".format)
    assert (
        "Caption. 2 runs were trained at the same time, which slows each."
        in (tmp_path / "table.md").read_text()
    )


def test_an_error_in_the_plan_is_one_line():
    def plan():
        raise ValueError("no such thing")

    with pytest.raises(SystemExit, match="^error: no such thing$"):
        train_and_report(plan, lambda comparison: None)


@pytest.mark.parametrize("interrupted", ["plan", "train", "report"])
def test_ctrl_c_ends_with_status_130_and_says_how_to_continue(
    interrupted, comparison, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", ["tools/table9.py", "--seeds", "1"])

    def step(name):
        if name == interrupted:
            raise KeyboardInterrupt
        return comparison

    monkeypatch.setattr(comparison, "train", lambda: step("train"))
    with pytest.raises(SystemExit) as end:
        train_and_report(lambda: step("plan"), lambda comparison: step("report"))
    assert end.value.code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "Stopped by Ctrl-C. To continue, run again: tools/table9.py --seeds 1"


def test_a_table_that_cannot_be_written_is_one_line(comparison, monkeypatch):
    def report(comparison):
        raise OSError("no space left")

    monkeypatch.setattr(comparison, "train", lambda: None)
    with pytest.raises(SystemExit, match="^error: no space left$"):
        train_and_report(lambda: comparison, report)
