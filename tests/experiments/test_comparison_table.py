import json

from flowdet.experiments.comparison_table import (
    accuracy_rows,
    comparison_table,
    cost_rows,
    mean_and_std,
)


def test_table_without_any_finished_run_of_a_method(compare, monkeypatch):
    comparison = compare(seeds=[0], methods=["flow"])
    comparison.train()
    both = compare(seeds=[0], extra=["MODEL.FLOW_DET.SELF_CONDITIONING", "True"])
    table = comparison_table(
        accuracy_rows(both.runs, ["AP50"]) + cost_rows(both.runs), ["AP50"], "github"
    )
    *_, flow, backprop = table.splitlines()
    assert "0.0" in flow and flow.count("-") == 0
    assert backprop.count(" - ") == 5 and "0 (1 failed or not run)" in backprop


def test_table_of_accuracy_and_costs(compare):
    comparison = compare()
    comparison.train()
    rows = accuracy_rows(comparison.runs, ["AP50", "AP75"]) + cost_rows(comparison.runs)
    by_metric = {(row["method"], row["metric"]): row for row in rows}
    ap50 = by_metric["flow", "AP50"]
    assert (ap50["mean"], ap50["std"], ap50["n"]) == (5.0, 7.07, 2)
    assert by_metric["flow", "trained_parameters"]["mean"] > 1000
    assert by_metric["backprop", "step_seconds"]["mean"] > 0
    table = comparison_table(rows, ["AP50", "AP75"], "github")
    header, _, flow, backprop = table.splitlines()
    assert header.startswith("| method") and "activations (MiB)" in header
    assert "5.0 +- 7.1" in flow and "5.0 +- 0.0" in flow
    assert backprop.startswith("| backprop")
    json.dumps(rows, allow_nan=False)


def test_mean_and_std():
    assert mean_and_std([1.0, 3.0]) == {"mean": 2.0, "std": 1.41, "n": 2}
    assert mean_and_std([1.0]) == {"mean": 1.0, "std": None, "n": 1}
