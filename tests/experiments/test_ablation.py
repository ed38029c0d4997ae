import json

import pytest
import torch

from flowdet.engine import Trainer
from flowdet.experiments.ablation import (
    Study,
    ablation_figure,
    ablation_rows,
    ablation_table,
    group_by_variant,
)
from flowdet.experiments.comparison import Run
from flowdet.flow import InferencePlan
from tests.detection.tiny import CONFIGS

CONTENT = """
config: {configs}/digits_flow.yaml
budget: "4:1"
modes: [multi_step-2, ensemble, single_step-1]
variants:
  Recipe (ours): {{}}
  no noise: {{MODEL.FLOW_DET.NOISE_SCALE: 0.0}}
  backprop: {{config: {configs}/digits_backprop.yaml}}
"""
# overrides of the runs: a small model and dataset
SMALL = [
    *("MODEL.FLOW_DET.HIDDEN_DIM", "32", "MODEL.FLOW_DET.NUM_BLOCKS", "2"),
    *("MODEL.FLOW_DET.FEEDFORWARD_DIM", "16", "MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]"),
    *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "DATASETS.TRAIN", "('study_pets',)"),
    *("DATASETS.TEST", "('study_pets',)", "MODEL.WEIGHTS", ""),
]


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(CONTENT.format(configs=CONFIGS))
    return path


def test_read_study(study_file):
    study = Study.read(study_file)
    assert (study.budget.batch_size, study.budget.epochs) == (4, 1)
    assert study.modes == (
        InferencePlan("multi_step", 2),
        InferencePlan("ensemble"),
        InferencePlan("single_step", block=1),
    )
    assert [variant.slug for variant in study.variants] == ["recipe_ours", "no_noise", "backprop"]
    assert study.variants[1].overrides == ("MODEL.FLOW_DET.NOISE_SCALE", "0.0")
    assert study.variants[2].config_file.endswith("digits_backprop.yaml")
    (selected,) = study.select(["no noise"]).variants
    assert selected is study.variants[1]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("budget:", "budgets:", "must have the keys budget, config, modes, variants"),
        ('"4:1"', "four", "'four' is not a budget"),
        ("ensemble,", "together,", "'together' is no.* inference mode"),
        ("[multi_step-2, ensemble, single_step-1]", "[]", "`modes` must list at least one"),
        ("{MODEL.FLOW_DET.NOISE_SCALE: 0.0}", "0.0", "variant 'no noise' must be a mapping"),
        ("digits_backprop.yaml", "none.yaml", "none.yaml of variant 'backprop' does not exist"),
        ("modes: [", "modes: [[", "is not valid YAML"),
    ],
)
def test_error_names_what_is_wrong_with_a_study(study_file, old, new, message):
    study_file.write_text(study_file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        Study.read(study_file)


def test_missing_study_and_variant(study_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no study file"):
        Study.read(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="no variant 'noise', only Recipe"):
        Study.read(study_file).select(["noise"])


@pytest.fixture
def runs(study_file, tmp_path, voc_dataset):
    """Two seeds of every variant; the second of "no noise" is not finished."""
    voc_dataset({"a": [((1, 2, 20, 30), "dog", 0)]}, name="study_pets")
    runs = []
    for seed in (0, 1):
        for variant in Study.read(study_file).variants:
            words = [*SMALL, *variant.overrides]
            budget = Study.read(study_file).budget
            file = variant.config_file
            run = Run.plan(file, budget, seed, tmp_path / "out", words, variant.slug)
            runs.append(run)
            if (seed, variant.name) == (1, "no noise"):
                continue
            run.folder.mkdir(parents=True)
            torch.manual_seed(seed)
            state = Trainer.build_model(run.cfg).state_dict()
            torch.save({"model": state}, run.folder / "model_final.pth")
            (run.folder / "results.json").write_text('{"rows": []}')
    return runs


def test_rows_table_and_figure_have_every_variant_and_mode(study_file, runs):
    study = Study.read(study_file)
    rows = ablation_rows(group_by_variant(study, runs), study.modes)
    counts = {(row["variant"], row["mode"]): row["n"] for row in rows if row["metric"] == "AP50"}
    names = ("multi_step", "ensemble", "single_step")
    assert counts == {
        **{("Recipe (ours)", mode): 2 for mode in names},
        **{("no noise", mode): 1 for mode in names},
        ("backprop", "layers"): 2,
    }
    missing = {r["variant"]: r["mean"] for r in rows if r["metric"] == "missing_runs"}
    assert missing == {"Recipe (ours)": 0, "no noise": 1, "backprop": 0}

    header, _, *lines = ablation_table(rows, study.modes, "github").splitlines()
    assert "AP75 multi_step-2" in header and "AP50 single_step-1" in header
    assert [line.split("|")[-2].strip() for line in lines] == ["2", "1 (1 failed or not run)", "2"]
    # backprop has values in the columns of the first mode only
    assert [cell.strip() for cell in lines[2].split("|")[4:6]] == ["-", "-"]

    (axes,) = ablation_figure(rows, study.modes).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Recipe (ours)", "no noise", "backprop"]
    assert [len(container[0].get_xdata()) for container in axes.containers] == [3, 3]


def test_modes_are_evaluated_once(study_file, runs):
    study = Study.read(study_file)
    groups = group_by_variant(study, runs)
    first = ablation_rows(groups, study.modes)
    path = runs[0].folder / "modes.json"
    cached = json.loads(path.read_text())
    cached["rows"][0]["mean"] += 50.0
    path.write_text(json.dumps(cached))
    again = ablation_rows(groups, study.modes)
    # one of two seeds
    assert again[0]["mean"] == pytest.approx(first[0]["mean"] + 25.0, abs=0.01)
    # other modes are evaluated again
    assert len(ablation_rows(groups, study.modes[:1])) < len(first)
    assert json.loads(path.read_text())["modes"] == ["multi_step-2"]
