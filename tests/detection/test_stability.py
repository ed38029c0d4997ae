"""Scores by how well boxes stand: by hand, in both detectors, whatever the batch."""

import pytest
import torch

from flowdet.detection.stability import BoxStability, Refinement, overlap
from tests.detection.tiny import batch, tiny_model

FILES = ["digits_flow.yaml", "digits_backprop.yaml"]


def test_overlap_by_hand():
    one = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.0]]])
    other = torch.tensor([[[0.6, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0]]])
    torch.testing.assert_close(overlap(one, other), torch.tensor([[1 / 3, 1 / 2, 0.0]]))


def test_stability_is_the_mean_overlap_of_what_noisy_estimates_become():
    torch.manual_seed(0)
    stability = BoxStability(3, 0.5, (2, 4))
    before, ask = torch.randn(5, 2, 4), lambda estimate: estimate * 2
    transport = Refinement([before * 2], before, ask)
    found = stability(transport, torch.sigmoid)
    assert found.shape == (5, 2) and (found < 1).all() and (found > 0).any()
    spread = before.std(dim=(1, 2), keepdim=True)
    boxes = torch.sigmoid(2 * (before + spread * stability.noise[:, None]))
    expected = overlap(boxes, torch.sigmoid(before * 2).expand_as(boxes)).mean(dim=0)
    torch.testing.assert_close(found, expected)
    # what does not care about the estimate stands still
    still = stability(Refinement([before], before, lambda _: before), torch.sigmoid)
    torch.testing.assert_close(still, torch.ones(5, 2))


@pytest.mark.parametrize("file", FILES)
def test_scores_are_multiplied_and_boxes_are_not(file):
    keys = {"file": file, "SCORE_THRESHOLD": 0.0, "NMS_THRESHOLD": 1.0}
    plain = tiny_model(**keys).eval()
    rated = tiny_model(**keys, STABILITY_SAMPLES=2, STABILITY_NOISE=0.8).eval()
    rated.load_state_dict(plain.state_dict())
    with torch.no_grad():
        transport = rated.transport(rated.encode(batch()[:1]))
        again = transport.ask(transport.before)
        torch.testing.assert_close(again, transport.estimates[-1])
        sure = rated.stability_factors(transport)[0]
        assert plain.stability_factors(transport) is None and (sure < 1).any()
    before, after = (
        {
            (int(q), int(c)): (float(s), b)
            for q, c, s, b in zip(x.pred_queries, x.pred_classes, x.scores, x.pred_boxes.tensor)
        }
        for x in (model(batch()[:1])[0]["instances"] for model in (plain, rated))
    )
    both = before.keys() & after.keys()
    assert len(both) > 5
    for query, name in both:
        score, box = before[query, name]
        assert after[query, name][0] == pytest.approx(score * float(sure[query]), abs=1e-5)
        torch.testing.assert_close(after[query, name][1], box, atol=1e-3, rtol=0)


def rate_alone_and_together(model):
    together = model(batch())
    for inputs, expected in zip(batch(), together, strict=True):
        alone = model([inputs])[0]["instances"]
        torch.testing.assert_close(alone.scores, expected["instances"].scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("file", FILES)
def test_an_image_is_rated_by_itself(file):
    rate_alone_and_together(tiny_model(file=file, STABILITY_SAMPLES=2).eval())


def test_an_image_is_rated_where_its_own_walk_has_ended():
    model = tiny_model(file=FILES[0], STABILITY_SAMPLES=2, NUM_STEPS=8).eval()

    def steps(early_exit):
        model.early_exit = early_exit
        with torch.no_grad():
            return model.walk(model.encode(batch()), model.initial_noise(2)).steps.unique()

    # a threshold at which the two images do not end together
    model.early_exit = next(x / 200 for x in range(1, 60) if len(steps(x / 200)) == 2)
    rate_alone_and_together(model)


@pytest.mark.parametrize("mode", ["single_step", "ensemble", "multi_step_ensemble"])
@pytest.mark.parametrize("exit_at", [0.0, 1.0])
def test_every_mode_can_be_asked_again(mode, exit_at):
    model = tiny_model(STABILITY_SAMPLES=1, INFERENCE_MODE=mode, EARLY_EXIT=exit_at).eval()
    results = model.inference(batch(), trajectory=True)
    assert all((x["instances"].scores <= 1).all() for x in results)
    with torch.no_grad():
        transport = model.transport(model.encode(batch()[:1]))
        again = transport.ask(transport.before)
    if not exit_at:
        torch.testing.assert_close(again, transport.estimates[-1])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"STABILITY_SAMPLES": -1}, "STABILITY_SAMPLES must be at least 0"),
        ({"STABILITY_SAMPLES": 2, "STABILITY_NOISE": 0.0}, "STABILITY_NOISE above 0"),
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
