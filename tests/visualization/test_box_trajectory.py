"""The boxes' way from noise to detections: its ends, and that it leads there."""

import pytest
import torch
from torchvision.ops import box_convert

from flowdet.detection.boxes import to_absolute
from flowdet.visualization.box_trajectory import box_trajectory, interpolate_states
from tests.detection.tiny import batch, record, tiny_model


def travels(model, inputs, frames=9):
    """The results of a detector with their travels."""
    return model.eval().inference(inputs, analyses=[box_trajectory(frames)])


def test_states_between_lie_on_the_lines():
    states = [torch.tensor([x]) for x in (0.0, 4.0, 5.0)]
    found = interpolate_states([0.0, 0.5, 1.0], states, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert found.flatten().tolist() == [0, 2, 4, 4.5, 5]


def test_boxes_in_pixels_are_cut_off_at_the_border():
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5]], [[1.0, 0.0, 0.5, 0.5]]])
    assert to_absolute(boxes, (40, 80)).tolist() == [[[20, 10, 60, 30]], [[60, 0, 80, 10]]]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"INFERENCE_MODE": "single_step"},
        {"INFERENCE_MODE": "multi_step_ensemble", "NUM_STEPS": 2},
        {"EARLY_EXIT": 1.0},
        {"file": "digits_backprop.yaml"},
        {"file": "digits_flow_paper.yaml"},
    ],
)
def test_ends_in_the_detections(keys):
    model = tiny_model(**keys)
    inputs = [*batch(), record(size=(48, 64), height=96, width=128)]
    for result in travels(model, inputs):
        found, way = result["instances"], result["box_trajectory"]
        assert way.times.tolist() == pytest.approx([i / 8 for i in range(9)])
        assert way.boxes.shape == (9, 6, 4) and way.objectness.shape == (9, 6)
        assert len(found) > 0
        last = way.boxes[-1, found.pred_queries]
        torch.testing.assert_close(last, found.pred_boxes.tensor, atol=1e-3, rtol=0)


def test_starts_as_the_noise_decodes():
    model = tiny_model()
    _, way = travels(model, batch())[1].values()
    noise = model.initial_noise(1)[0]
    logits, boxes = model.heads(noise)
    expected = box_convert(boxes, "cxcywh", "xyxy") * 64
    torch.testing.assert_close(way.boxes[0], expected.clamp(0, 64), atol=1e-3, rtol=0)
    torch.testing.assert_close(way.objectness[0], 1 - logits.softmax(-1)[:, -1])


def test_passes_through_the_states_of_the_solver():
    model = tiny_model().eval()
    inputs = batch()
    with torch.no_grad():
        solution = model.walk(model.encode(inputs), model.initial_noise(2), trajectory=True)
        times, states = model.state_trajectory(model.encode(inputs))
    assert times == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for result, b in zip(travels(model, inputs, frames=7), range(2)):
        for k in range(4):
            boxes = to_absolute(model.heads.boxes(states[k][b]), (64, 64))
            torch.testing.assert_close(
                result["box_trajectory"].boxes[2 * k], boxes, atol=1e-3, rtol=0
            )
            torch.testing.assert_close(states[k], solution.states[k])


def test_boxes_come_closer_to_where_they_end():
    # far noise, so that there is a way to go
    model = tiny_model(NOISE_SCALE=2.0)
    for result in travels(model, batch(), frames=13):
        boxes = result["box_trajectory"].boxes
        distance = (boxes - boxes[-1]).abs().mean(dim=(1, 2))
        assert distance[0] > 5 and distance[-1] == 0
        assert (distance[1:] < distance[:-1]).all()


def test_after_an_early_exit_the_way_leads_straight_to_the_end():
    model = tiny_model(EARLY_EXIT=1.0, NUM_BLOCKS=10).eval()
    times, states = model.state_trajectory(model.encode(batch()))
    # all boxes have converged after the second step
    assert times == pytest.approx([0, 0.1, 0.2, 1])
    assert len(states) == 4
    torch.testing.assert_close(states[-1], model.transport(model.encode(batch())).estimates[0])


def test_needs_two_frames():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        box_trajectory(1)
