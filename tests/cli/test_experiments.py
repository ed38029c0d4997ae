"""The commands behind the paper's tables and figures, on a digits dataset of 12 images."""

import json

import pytest

from flowdet.cli import measure_refinement
from tests.cli.commands import FOUR_IMAGES, NO_REPORT, SMALL
from tests.cli.conftest import ROOT

# SMALL, and further overrides that make experiments fast
TINY = [*SMALL, *NO_REPORT, "MODEL.FLOW_DET.NUM_BLOCKS", "2", "TEST.BATCH_SIZE", "4"]


def results(folder, name):
    content = json.loads((folder / f"{name}.json").read_text())
    assert content["settings"] and content["versions"] and "seeds" in content
    return content


def test_table1_and_the_measurements_of_its_runs(run, tmp_path, trainings_in_process):
    words = ("tools/table1.py", "--budget", "4:1", "--seeds", 1, "--methods", "flow", "backprop")
    words += ("--output", tmp_path, "MODEL.WEIGHTS", "", *TINY)
    status, output = run(*words)
    assert status == 0, output
    assert "mean over all classes" in output and "backprop" in output
    table = (tmp_path / "table1.md").read_text()
    assert "| flow " in table and "Made by `tools/table1.py" in table
    rows = results(tmp_path, "table1")["rows"]
    assert {row["metric"] for row in rows} >= {"AP50", "AP75", "activation_bytes", "step_seconds"}
    assert all(row["mean"] == 0 for row in rows if row["metric"] == "missing_runs")

    # the trained runs are not trained again
    written = (tmp_path / "flow_batch4_seed0" / "model_final.pth").stat().st_mtime_ns
    status, output = run(*words)
    assert status == 0, output
    assert (tmp_path / "flow_batch4_seed0" / "model_final.pth").stat().st_mtime_ns == written

    status, output = run(*words, "MODEL.FLOW_DET.NOISE_SCALE", "0.2")
    assert status == 1 and "holds a run of another config: MODEL.FLOW_DET.NOISE_SCALE" in output

    curves = ("tools/plot_training.py", "--runs", tmp_path / "flow_batch4_seed0")
    status, output = run(*curves, "--metrics", "bbox/AP50", "--output", tmp_path / "curves")
    assert status == 0, output
    assert results(tmp_path / "curves", "curves")["rows"][0]["epoch"] == 1.0

    refinement = ("tools/measure_refinement.py", "--run", tmp_path / "flow_batch4_seed0")
    status, output = run(*refinement, "--max-steps", 2, "--output", tmp_path / "refinement")
    assert status == 0, output
    assert (tmp_path / "refinement" / "refinement.png").stat().st_size > 1000
    plans = ("--plans", "single_step-1", "ensemble", "--output", tmp_path / "plans")
    status, output = run(*refinement, *plans)
    assert status == 0, output
    rows = results(tmp_path / "plans", "refinement")["rows"]
    assert [row["mode"] for row in rows] == ["single_step"] * 2 + ["ensemble"] * 2

    # after one epoch no detection is a true positive
    uncertainty = ("tools/measure_uncertainty.py", "--run", tmp_path / "flow_batch4_seed0")
    status, output = run(*uncertainty, "--output", tmp_path / "uncertainty")
    assert status == 1 and "check that the model is trained" in output.splitlines()[-1]


def test_plans_by_their_name_in_older_result_files():
    words = ["--run", "a", "--walks", "ensemble", "multi_step-4"]
    assert measure_refinement.parse_args(words).plans == ["ensemble", "multi_step-4"]
    assert measure_refinement.parse_args(["--run", "a"]).plans is None


def test_ablation_trains_in_a_process_of_its_own(run, tmp_path):
    study = tmp_path / "few.yaml"
    study.write_text(
        f"config: {ROOT}/configs/digits_flow.yaml\nbudget: '4:1'\nmodes: [multi_step-2, ensemble]\n"
        "variants: {chain: {}, mixed: {MODEL.FLOW_DET.LEARN_AT_START: True}}\n"
    )
    words = ("tools/ablation.py", "--study", study, "--only", "mixed", "--seeds", 1)
    words += ("--output", tmp_path / "out", "MODEL.WEIGHTS", "", *TINY)
    status, output = run(*words)
    assert status == 0, output
    assert "AP50 multi_step-2" in output
    rows = results(tmp_path / "out", "few")["rows"]
    assert {row["variant"] for row in rows} == {"mixed"}
    assert {row.get("mode") for row in rows} == {"multi_step", "ensemble", None}


def test_memory(run, tmp_path):
    words = ("tools/measure_memory.py", "--config-file", "configs/digits_flow.yaml")
    words += ("--blocks", 2, 4, "--batch-sizes", 1, "--output", tmp_path, *TINY)
    status, output = run(*words)
    assert status == 0, output
    assert "bytes per block" in output
    slopes = [r for r in results(tmp_path, "memory")["rows"] if r["metric"].endswith("per_block")]
    assert [row["mean"] > 0 for row in slopes] == [False, False, True, True]
    assert (tmp_path / "memory.svg").is_file()


def test_gradients(run, tmp_path):
    words = ("tools/measure_gradients.py", "--blocks", 2, "--batches", 2, "--iterations", 0)
    status, output = run(*words, "--output", tmp_path, *TINY, *FOUR_IMAGES)
    assert status == 0, output
    assert "first / last" in output
    assert len(results(tmp_path, "gradient_variance")["rows"]) == 3 * 3


def test_leak(run, tmp_path):
    words = ("tools/measure_leak.py", "--batches", 1, "--iterations", 0, "--times", 0, 0.5)
    status, output = run(*words, "--output", tmp_path, *TINY, *FOUR_IMAGES)
    assert status == 0, output
    assert "features of another image" in output
    assert len(results(tmp_path, "leak")["rows"]) == 2 * 3


@pytest.mark.parametrize(
    "words, message",
    [
        (("table1.py", "--dataset", "voc", "--frozen"), "dataset folder"),
        (("table1.py", "--budget", "8"), "'8' is not a budget"),
        (("table1.py", "--frozen"), "--frozen and --r18 are for --dataset voc"),
        (("table1.py", "--dataset", "voc", "--frozen", "--r18"), "give one of them"),
        (
            ("table1.py", "--dataset", "voc", "--r18", "--methods", "flow_paper"),
            "there is no flow_paper for this dataset and backbone",
        ),
        (("table3.py", "--suite", "cifar10_small"), "make it with datasets/make_image_folder.py"),
        (("ablation.py", "--study", "none.yaml"), "there is no study file 'none.yaml'"),
        (
            ("ablation.py", "--study", "configs/ablations/digits.yaml", "--only", "dream"),
            "there is no variant 'dream', only default, backprop",
        ),
        (("measure_memory.py", "--blocks", "0"), "T must be at least 1, got 0"),
        (("measure_memory.py", "--config-file", "none.yaml"), "no config file 'none.yaml'"),
        (("measure_gradients.py", "--batches", "1"), "at least 2 batches, got 1"),
        (("measure_refinement.py", "--run", "nowhere"), "no config file 'nowhere/config.yaml'"),
        (("measure_representation.py", "--runs", "nowhere"), "there is no folder nowhere: give"),
        (("plot_training.py", "--runs", "nowhere"), "nowhere is not a run"),
        (("plot_training.py", "--runs", "a", "--output", "README.md"), "README.md is a file"),
    ],
)
def test_an_error_of_the_user_writes_nothing(run, tmp_path, words, message):
    tool, *rest = words
    output_folder = () if "--output" in words else ("--output", tmp_path / "out")
    status, output = run(f"tools/{tool}", *rest, *output_folder)
    assert status != 0
    assert message in output
    assert not (tmp_path / "out").exists()
