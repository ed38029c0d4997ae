"""benchmarks/bench.py, with a small detector."""

import json

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
    assert "4 of 4 rows are worse than in" in text


def test_a_missing_file_is_reported_before_the_measurement(run, tmp_path):
    words = (*WORDS, "--output", tmp_path, "--compare", tmp_path / "gone.json")
    status, text = run("benchmarks/bench.py", *words)
    assert status == 1 and "gone.json" in text and "inference_ratio" not in text
