import pytest
import torch

from flowdet.engine import resolve_config
from flowdet.experiments.refinement import (
    all_plans,
    mean_over_runs,
    plan_estimates,
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


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("mode", ["single_step", "ensemble", "multi_step", "multi_step_ensemble"])
@torch.no_grad()
def test_last_step_equals_inference(mode, samples):
    keys = {"NUM_STEPS": 2, "SINGLE_STEP_BLOCK": 1, "STABILITY_SAMPLES": samples}
    model = tiny_model(INFERENCE_MODE=mode, **keys).eval()
    tokens = model.encode(batch())
    estimates = {key: values for key, *values in plan_estimates(model, 2, tokens, all_plans(3, 2))}
    steps = 2 if mode.startswith("multi_step") else 1
    block = 1 if mode == "single_step" else 0
    z, score_factors = estimates[InferencePlan(mode, steps, block), steps]
    detections = model.detections(z, batch(), score_factors)
    for predicted, expected in zip(detections, model(batch()), strict=True):
        expected = expected["instances"]
        assert len(expected) > 0
        torch.testing.assert_close(predicted.scores, expected.scores, atol=1e-4, rtol=0)
        boxes, expected_boxes = predicted.pred_boxes.tensor, expected.pred_boxes.tensor
        torch.testing.assert_close(boxes, expected_boxes, atol=0.01, rtol=0)


def test_every_step_of_every_mode_is_evaluated(cfg):
    rows = refinement_rows(cfg, tiny_model().eval(), all_plans(3, 3), metrics=["AP50"])
    steps = [(row["mode"], row["num_steps"], row["step"]) for row in rows]
    # three blocks, one ensemble, and 1 + 2 + 3 steps in two modes
    assert len(steps) == 3 + 1 + 2 * 6
    assert ("multi_step_ensemble", 3, 2) in steps
    assert {row["block"] for row in rows if row["mode"] == "single_step"} == {0, 1, 2}
    assert all(0 <= row["mean"] <= 100 for row in rows)
    assert len(refinement_figure(rows).axes) == 2


def test_mean_over_runs():
    def rows(first, last):
        common = {"mode": "multi_step", "metric": "AP50", "std": None, "n": 1}
        return [common | {"num_steps": 1, "mean": first}, common | {"num_steps": 2, "mean": last}]

    first, last = mean_over_runs([rows(10.0, 20.0), rows(14.0, 26.0)])
    assert (first["num_steps"], first["mean"], first["n"]) == (1, 12.0, 2)
    assert (last["num_steps"], last["mean"]) == (2, 23.0)
    assert last["std"] == pytest.approx(18**0.5, abs=0.01)
    assert mean_over_runs([rows(10.0, 20.0)]) == rows(10.0, 20.0)


def test_baseline_is_evaluated_after_every_layer(cfg):
    model = tiny_model(file="digits_backprop.yaml").eval()
    rows = refinement_rows(cfg, model, [], metrics=["AP50"])
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert refinement_rows(cfg, model, [], ["AP50"], every_step=False) == rows[2:]
    assert len(refinement_figure(rows).axes) == 1


def test_evaluation_after_the_last_step_only(cfg):
    plans = [InferencePlan("multi_step", 3), InferencePlan("single_step", block=2)]
    rows = refinement_rows(cfg, tiny_model().eval(), plans, metrics=["AP50"], every_step=False)
    assert [(row["mode"], row["step"]) for row in rows] == [("multi_step", 3), ("single_step", 1)]


def test_number_of_steps_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        all_plans(3, 0)
