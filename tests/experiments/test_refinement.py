import pytest
import torch

from flowdet.engine import resolve_config
from flowdet.experiments.refinement import (
    all_walks,
    decode_points,
    mean_over_runs,
    refinement_figure,
    refinement_rows,
)
from flowdet.flow import InferencePlan
from tests.detection.tiny import batch, tiny_cfg, tiny_model


@pytest.fixture
def cfg(voc_dataset):
    objects = {f"img{i}": [((1, 2, 20 + i, 30), "dog", 0)] for i in range(3)}
    name = voc_dataset(objects, name="refined_pets", split="val")
    cfg = tiny_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    cfg.INPUT.FIXED_SIZE = [32, 32]
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.BATCH_SIZE = 0, 2
    return resolve_config(cfg, training=False)


@pytest.mark.parametrize("draws", [0, 2])
@pytest.mark.parametrize("mode", ["single_step", "ensemble", "multi_step", "multi_step_ensemble"])
@torch.no_grad()
def test_the_last_step_is_what_inference_finds(mode, draws):
    keys = {"NUM_STEPS": 2, "SINGLE_STEP_BLOCK": 1, "STABILITY_SAMPLES": draws}
    model = tiny_model(INFERENCE_MODE=mode, **keys).eval()
    tokens = model.encode(batch())
    points = {point: found for point, *found in decode_points(model, 2, tokens, all_walks(3, 2))}
    steps = 2 if mode.startswith("multi_step") else 1
    block = 1 if mode == "single_step" else 0
    z, confidence = points[InferencePlan(mode, steps, block), steps]
    decoded = model.detections(z, batch(), confidence)
    for found, wanted in zip(decoded, model(batch())):
        torch.testing.assert_close(found.scores, wanted["instances"].scores)


def test_every_step_of_every_mode_is_measured(cfg):
    rows = refinement_rows(cfg, tiny_model().eval(), all_walks(3, 3), metrics=["AP50"])
    walks = [(row["mode"], row["num_steps"], row["step"]) for row in rows]
    # three blocks, one ensemble, and 1 + 2 + 3 steps in two modes
    assert len(walks) == 3 + 1 + 2 * 6
    assert ("multi_step_ensemble", 3, 2) in walks
    assert {row["block"] for row in rows if row["mode"] == "single_step"} == {0, 1, 2}
    assert all(0 <= row["mean"] <= 100 for row in rows)
    assert len(refinement_figure(rows).axes) == 2


def test_several_runs_become_their_mean():
    def rows(first, last):
        common = {"mode": "multi_step", "metric": "AP50", "std": None, "n": 1}
        return [common | {"num_steps": 1, "mean": first}, common | {"num_steps": 2, "mean": last}]

    first, last = mean_over_runs([rows(10.0, 20.0), rows(14.0, 26.0)])
    assert (first["num_steps"], first["mean"], first["n"]) == (1, 12.0, 2)
    assert (last["num_steps"], last["mean"]) == (2, 23.0)
    assert last["std"] == pytest.approx(18**0.5, abs=0.01)
    assert mean_over_runs([rows(10.0, 20.0)]) == rows(10.0, 20.0)


def test_layers_of_the_baseline(cfg):
    model = tiny_model(file="digits_backprop.yaml").eval()
    rows = refinement_rows(cfg, model, [], metrics=["AP50"])
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert refinement_rows(cfg, model, [], ["AP50"], every_step=False) == rows[2:]
    assert len(refinement_figure(rows).axes) == 1


def test_the_end_of_each_walk(cfg):
    walks = [InferencePlan("multi_step", 3), InferencePlan("single_step", block=2)]
    rows = refinement_rows(cfg, tiny_model().eval(), walks, metrics=["AP50"], every_step=False)
    assert [(row["mode"], row["step"]) for row in rows] == [("multi_step", 3), ("single_step", 1)]


def test_no_steps():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        all_walks(3, 0)
