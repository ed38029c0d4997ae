"""benchmarks/bench.py, with a small detector."""

import json

import pytest

from tests.cli.commands import SMALL

WORDS = ("--quick", "--rounds", 1, "--parts", "inference", "--config-file", "digits_flow")


def test_the_command_measures_and_compares(run, tmp_path):
    output = tmp_path / "bench"
    words = (*WORDS, "--output", output)
    status, text = run("benchmarks/bench.py", *words, *SMALL)
    assert status == 0, text
    assert "inference_ratio_to_backbone" in text and "written:" in text
    content = json.loads((output / "bench.json").read_text())
    assert content["command"].startswith("benchmarks/bench.py --quick")
    # as if it had been much faster before
    for row in content["rows"]:
        if row["metric"] == "inference_ratio_to_backbone":
            row |= {"median": row["median"] / 100, "high": row["high"] / 100}
    (tmp_path / "earlier.json").write_text(json.dumps(content))
    status, text = run(
        "benchmarks/bench.py", *words, "--compare", tmp_path / "earlier.json", *SMALL
    )
    assert status == 1
    assert "7 of 7 rows are worse than in" in text


def test_a_missing_file_is_reported_before_the_measurement(run, tmp_path):
    words = (*WORDS, "--output", tmp_path, "--compare", tmp_path / "gone.json")
    status, text = run("benchmarks/bench.py", *words)
    assert status == 1 and "gone.json" in text and "inference_ratio" not in text


def test_other_detectors_are_refused(run, tmp_path):
    words = ("--quick", "--parts", "profile", "--config-file", "digits_backprop")
    status, text = run("benchmarks/bench.py", *words, "--output", tmp_path)
    assert status == 2 and "config of a BackpropDetector" in text


@pytest.mark.parametrize(
    "content, message",
    [
        ({"rows": 3}, "is not a result file of this command"),
        ([1], "is not a result file of this command"),
        ({"rows": [{"method": "flow"}], "config": "digits_flow"}, "is not a result file"),
        ({"rows": [], "config": "voc_flow_r50, voc_flow_r18_frozen"}, "--config-file voc_flow_r50"),
    ],
)
def test_a_file_that_cannot_be_compared_is_reported_before_the_measurement(
    run, tmp_path, content, message
):
    (tmp_path / "x.json").write_text(json.dumps(content))
    words = (*WORDS, "--output", tmp_path, "--compare", tmp_path / "x.json")
    status, text = run("benchmarks/bench.py", *words)
    assert status == 1 and message in text and "inference_ratio" not in text


def test_nothing_to_compare_is_no_success(run, tmp_path, monkeypatch):
    monkeypatch.setattr("flowdet.experiments.speed.inference.inference_rows", lambda *_: [])
    (tmp_path / "x.json").write_text(json.dumps({"rows": [], "config": "digits_flow"}))
    words = (*WORDS, "--output", tmp_path, "--compare", tmp_path / "x.json")
    status, text = run("benchmarks/bench.py", *words)
    assert status == 1 and "nothing was compared" in text
