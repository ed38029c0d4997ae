"""Box stability: by hand, in both detectors, independent of the batch."""

from dataclasses import replace

import pytest
import torch

from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.stability import BoxStability, Refinement
from tests.detection.tiny import batch, record, tiny_model
from tests.inference.comparison import assert_same_detections

FILES = ["digits_flow.yaml", "digits_backprop.yaml"]


def test_stability_is_the_mean_iou_with_perturbed_boxes():
    torch.manual_seed(0)
    stability = BoxStability(3, 0.5, (2, 4))
    before = torch.randn(5, 2, 4)
    values = stability(Refinement([before * 2], before, lambda z: z * 2), torch.sigmoid)
    assert values.shape == (5, 2) and (values < 1).all() and (values > 0).any()
    std = before.std(dim=(1, 2), keepdim=True)
    expected = []
    for noise in stability.noise:
        boxes = torch.sigmoid(2 * (before + std * noise))
        expected.append(paired_iou(to_corners(boxes), to_corners(torch.sigmoid(before * 2))))
    torch.testing.assert_close(values, torch.stack(expected).mean(dim=0))
    # a step that ignores the estimate is perfectly stable
    constant = stability(
        Refinement([before], before, lambda z: before[:, None].expand_as(z)), torch.sigmoid
    )
    torch.testing.assert_close(constant, torch.ones(5, 2))


def test_many_perturbations_run_in_several_parts():
    """So memory does not grow with their number."""
    stability, sizes = BoxStability(20, 0.5, (2, 4)), []
    before = torch.randn(3, 2, 4)

    def rerun(z):
        sizes.append(z.shape[1])
        return z

    values = stability(Refinement([before], before, rerun), torch.sigmoid)
    assert sum(sizes) == 20 and max(sizes) < 20
    moved = before[:, None] + before.std(dim=(1, 2))[:, None, None, None] * stability.noise
    boxes = to_corners(before.sigmoid())[:, None]
    expected = paired_iou(to_corners(moved.sigmoid()), boxes).mean(dim=1)
    torch.testing.assert_close(values, expected)


def test_perturbations_are_independent_of_the_initial_noise():
    model = tiny_model(STABILITY_SAMPLES=2)
    z_0 = model.initial_noise(1)[0].flatten()
    for noise in model.stability.noise:
        assert abs(torch.corrcoef(torch.stack([z_0, noise.flatten()]))[0, 1]) < 0.3


@pytest.mark.parametrize("file", FILES)
def test_scores_are_multiplied_and_boxes_are_not(file):
    keys = {"file": file, "SCORE_THRESHOLD": 0.0, "NMS_THRESHOLD": 1.0}
    plain = tiny_model(**keys).eval()
    rated = tiny_model(**keys, STABILITY_SAMPLES=2, STABILITY_NOISE=0.8).eval()
    rated.load_state_dict(plain.state_dict())
    with torch.no_grad():
        refinement = rated.refine(rated.encode(batch()[:1]))
        factors = rated.stability_factors(refinement)[0]
        assert plain.stability_factors(refinement) is None and (factors < 1).any()
    before, after = (
        {
            (int(q), int(c)): (float(s), b)
            for q, c, s, b in zip(x.pred_queries, x.pred_classes, x.scores, x.pred_boxes.tensor)
        }
        for x in (model(batch()[:1])[0]["instances"] for model in (plain, rated))
    )
    both = before.keys() & after.keys()
    assert len(both) > 5
    for query, label in both:
        score, box = before[query, label]
        assert after[query, label][0] == pytest.approx(score * float(factors[query]), abs=1e-4)
        torch.testing.assert_close(after[query, label][1], box, atol=0.01, rtol=0)


def assert_independent_of_the_batch(model, images=None):
    images = images or batch()
    for image, together in zip(images, model(images), strict=True):
        assert_same_detections(model([image])[0]["instances"], together["instances"])


@pytest.mark.parametrize("file", FILES)
def test_the_stability_of_an_image_does_not_depend_on_the_batch(file):
    assert_independent_of_the_batch(tiny_model(file=file, STABILITY_SAMPLES=2).eval())


def test_with_early_exit_each_image_repeats_its_own_last_step():
    model = tiny_model(file=FILES[0], STABILITY_SAMPLES=2, NUM_BLOCKS=6).eval()
    inputs = [record(seed=seed) for seed in range(5)]
    with torch.no_grad():
        tokens = model.encode(inputs)

    @torch.no_grad()
    def steps(early_exit):
        model.settings = replace(model.settings, early_exit=early_exit)
        return model.solve(tokens, model.initial_noise(len(inputs))).steps

    # a threshold at which images leave the batch twice, after steps of different blocks
    exits = (x / 400 for x in range(1, 120))
    early_exit = next(x for x in exits if len(steps(x).unique()) >= 3)
    model.settings = replace(model.settings, early_exit=early_exit)
    assert_independent_of_the_batch(model, inputs)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("mode", ["single_step", "ensemble", "multi_step", "multi_step_ensemble"])
def test_the_last_step_repeated_from_its_own_input_gives_its_own_result(file, mode):
    model = tiny_model(file=file, INFERENCE_MODE=mode).eval()
    with torch.no_grad():
        refinement = model.refine(model.encode(batch()[:1]))
        before = refinement.last_input[:, None]
        again = refinement.rerun_last_step(torch.cat([before, before + 0.5, before], dim=1))
    repeated, other, last = again.unbind(1)
    for estimate in (repeated, last):
        torch.testing.assert_close(estimate, refinement.z_1, atol=1e-4, rtol=0)
    assert (other - refinement.z_1).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"STABILITY_SAMPLES": -1}, "STABILITY_SAMPLES is -1, but must be at least 0"),
        (
            {"STABILITY_SAMPLES": 2, "STABILITY_NOISE": 0.0},
            "STABILITY_NOISE is 0.0, .* above 0",
        ),
        (
            {
                "STABILITY_SAMPLES": 1,
                "PREDICTION": "velocity",
                "ANCHORED_QUERIES": False,
                "SELF_CONDITIONING": False,
                "BOX_ANCHORED_ATTENTION": False,
                "BOX_SAMPLES": 0,
            },
            "needs MODEL.FLOW_DET.ANCHORED_QUERIES True",
        ),
    ],
)
def test_impossible_settings(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**keys)
