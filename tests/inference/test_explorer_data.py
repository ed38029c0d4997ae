"""The data of the explorer equal what the detector itself computes."""

from dataclasses import replace

import pytest
import torch

from flowdet.detection.boxes import to_absolute
from flowdet.evaluation.block_agreement import block_agreement
from flowdet.inference.explorer_data import INTERVALS, step_grid, transport_runs
from flowdet.visualization.box_trajectory import box_trajectory
from tests.detection.tiny import batch, record, tiny_model, with_plan
from tests.inference.comparison import PIXELS, PROBABILITY, assert_same_detections

INPUTS = [batch()[0], record(size=(48, 64), height=96, width=128, seed=3)]


def runs_of(model, inputs=INPUTS, seeds=(0,)):
    results = model.eval().inference(inputs, trajectory=True, analyses=[transport_runs(seeds)])
    return [(x["transport_runs"], x) for x in results]


@pytest.mark.parametrize("steps", [1, 3, 5, 40])
def test_every_step_has_the_same_number_of_times(steps):
    times = [i / steps for i in range(steps + 1)]
    grid, starts = step_grid(times)
    assert len(starts) == steps and grid[-1] == 1
    assert [grid[i] for i in starts] == times[:-1]
    assert grid == sorted(grid) and abs(len(grid) - 1 - max(INTERVALS, steps)) < steps


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"NUM_STEPS": 5, "STABILITY_SAMPLES": 2},
        {"INFERENCE_MODE": "multi_step_ensemble", "NUM_STEPS": 2},
        {"EARLY_EXIT": 1.0, "NUM_BLOCKS": 10},
        {"file": "digits_backprop.yaml", "STABILITY_SAMPLES": 2},
        {"file": "paper/digits_flow.yaml"},
    ],
)
def test_states_and_estimates_are_those_of_the_detector(keys):
    model = tiny_model(**keys)
    for (run,), result in runs_of(model):
        count = len(run.steps)
        for step, detections in zip(run.steps[:-1], result["trajectory"][: count - 1], strict=True):
            assert_same_detections(step.estimate, detections)
        flow = "backprop" not in keys.get("file", "")
        stable = flow and model.stability is not None
        assert_same_detections(
            run.stable if stable else run.steps[-1].estimate, result["instances"]
        )
        grid, starts = step_grid([0, *[i / count for i in range(1, count + 1)]])
        assert run.step_starts == starts and len(run.trajectory.times) == len(grid)
        last = run.trajectory.boxes[-1, result["instances"].pred_queries]
        expected = result["instances"].pred_boxes.tensor
        torch.testing.assert_close(last, expected, atol=PIXELS, rtol=0)


def test_states_are_those_of_the_box_trajectory():
    model = tiny_model(NUM_BLOCKS=4).eval()
    frames = INTERVALS + 1
    analyses = [transport_runs([0]), box_trajectory(frames)]
    for result in model.inference(INPUTS, analyses=analyses):
        (run,), expected = result["transport_runs"], result["box_trajectory"]
        assert run.trajectory.times.tolist() == pytest.approx(expected.times.tolist())
        torch.testing.assert_close(run.trajectory.boxes, expected.boxes, atol=PIXELS, rtol=0)


def test_predictions_at_the_start_are_those_of_single_step_and_ensemble():
    model = tiny_model()
    runs = runs_of(model)
    for mode in (*({"mode": "single_step", "block": k} for k in range(3)), {"mode": "ensemble"}):
        for ((run,), _), expected in zip(runs, with_plan(model, **mode).inference(INPUTS)):
            first = run.steps[0]
            found = first.blocks[mode["block"]] if "block" in mode else first.ensemble
            assert_same_detections(found, expected["instances"])


def test_every_step_evaluates_the_blocks_at_its_state():
    """Of a solver with one step per block, block k makes the estimate of step k."""
    for (run,), _ in runs_of(tiny_model()):
        for k, step in enumerate(run.steps):
            assert_same_detections(step.blocks[k], step.estimate)
            assert (step.blocks[k - 1].scores[0] - step.estimate.scores[0]).abs() > PROBABILITY


def test_agreement_of_the_last_step_is_that_of_block_agreement():
    model = tiny_model(STABILITY_SAMPLES=2).eval()
    for result in model.inference(INPUTS, analyses=[block_agreement, transport_runs([0])]):
        (run,), expected = result["transport_runs"], result["instances"]
        for name in ("agreement", "box_spread"):
            torch.testing.assert_close(run.stable.get(name), expected.get(name), atol=1e-3, rtol=0)


def test_scores_are_multiplied_by_the_stability():
    model = tiny_model(STABILITY_SAMPLES=2, NMS_THRESHOLD=1.0)
    for (run,), _ in runs_of(model):
        plain = run.steps[-1].estimate
        keys = list(zip(plain.pred_queries.tolist(), plain.pred_classes.tolist()))
        scores = dict(zip(keys, plain.scores.tolist(), strict=True))
        for i, (query, label) in enumerate(
            zip(run.stable.pred_queries.tolist(), run.stable.pred_classes.tolist(), strict=True)
        ):
            product = scores[query, label] * float(run.stable.stability[i])
            assert float(run.stable.scores[i]) == pytest.approx(product, abs=PROBABILITY)
        assert 0 < run.stable.stability.min() < 1


def test_stability_is_also_measured_for_a_model_that_does_not_use_it():
    model = tiny_model()
    assert model.stability is None
    for (run,), _ in runs_of(model):
        assert 0 < run.stable.stability.min() <= run.stable.stability.max() <= 1
    without_estimate = tiny_model(file="paper/digits_flow.yaml")
    assert without_estimate.flow.start is None
    assert all(run.stable is None for (run,), _ in runs_of(without_estimate))


def test_seeds_start_from_their_own_noise():
    model = tiny_model()
    runs = runs_of(model, seeds=(0, 7))
    model.settings = replace(model.settings, noise_seed=7)
    for ((zero, seven), _), expected in zip(runs, model.inference(INPUTS), strict=True):
        assert (zero.seed, seven.seed) == (0, 7)
        assert_same_detections(seven.steps[-1].estimate, expected["instances"])
    noise = to_absolute(model.heads.boxes(model.initial_noise(1, 7)[0]), (64, 64))
    torch.testing.assert_close(seven.trajectory.boxes[0, :, 0], noise[:, 0] * 2, atol=0.02, rtol=0)
    assert (zero.trajectory.boxes[0] - seven.trajectory.boxes[0]).abs().max() > 1
