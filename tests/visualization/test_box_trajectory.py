"""Box trajectories: from the decoded noise at t = 0 to the detections at t = 1."""

import pytest
import torch
from torch import nn
from torchvision.ops import box_convert

from flowdet.detection.boxes import to_absolute
from flowdet.visualization.box_trajectory import box_trajectory, interpolate_states
from tests.detection.tiny import batch, record, tiny_model

PIXELS, PROBABILITY = 0.01, 1e-4


def trajectory_results(model, inputs, frames=9):
    """The results of a detector with their `box_trajectory`."""
    return model.eval().inference(inputs, analyses=[box_trajectory(frames)])


def test_states_are_interpolated_linearly():
    states = [torch.tensor([x]) for x in (0.0, 4.0, 5.0)]
    interpolated = interpolate_states([0.0, 0.5, 1.0], states, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert interpolated.flatten().tolist() == [0, 2, 4, 4.5, 5]


def test_boxes_in_pixels_are_clipped_to_the_image():
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
        {"file": "paper/digits_flow.yaml"},
    ],
)
def test_ends_in_the_detections(keys):
    model = tiny_model(**keys)
    inputs = [*batch(), record(size=(48, 64), height=96, width=128)]
    for result in trajectory_results(model, inputs):
        detections, trajectory = result["instances"], result["box_trajectory"]
        assert trajectory.times.tolist() == pytest.approx([i / 8 for i in range(9)])
        assert trajectory.boxes.shape == (9, 6, 4) and trajectory.objectness.shape == (9, 6)
        assert len(detections) > 0
        last = trajectory.boxes[-1, detections.pred_queries]
        torch.testing.assert_close(last, detections.pred_boxes.tensor, atol=PIXELS, rtol=0)


def test_starts_at_the_decoded_noise():
    model = tiny_model()
    trajectory = trajectory_results(model, batch())[1]["box_trajectory"]
    noise = model.initial_noise(1)[0]
    logits, boxes = model.heads(noise)
    expected = box_convert(boxes, "cxcywh", "xyxy") * 64
    torch.testing.assert_close(trajectory.boxes[0], expected.clamp(0, 64), atol=PIXELS, rtol=0)
    objectness = 1 - logits.softmax(-1)[:, -1]
    torch.testing.assert_close(trajectory.objectness[0], objectness, atol=PROBABILITY, rtol=0)


def test_passes_through_the_states_of_the_solver():
    model = tiny_model().eval()
    inputs = batch()
    with torch.no_grad():
        solution = model.solve(model.encode(inputs), model.initial_noise(2), trajectory=True)
        times, states = model.state_trajectory(model.encode(inputs))
    assert times == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for result, b in zip(trajectory_results(model, inputs, frames=7), range(2)):
        for k in range(4):
            boxes = to_absolute(model.heads.boxes(states[k][b]), (64, 64))
            torch.testing.assert_close(
                result["box_trajectory"].boxes[2 * k], boxes, atol=PIXELS, rtol=0
            )
            torch.testing.assert_close(states[k], solution.states[k], atol=1e-4, rtol=0)


class ZeroBlock(nn.Module):
    """A flow block that does not correct the estimate."""

    def forward(self, z, *_):
        return torch.zeros_like(z)


def test_blocks_without_corrections_give_a_straight_line_to_the_anchors():
    model = tiny_model()
    model.flow.blocks = nn.ModuleList(ZeroBlock() for _ in range(3))
    noise, anchors = model.initial_noise(1)[0], model.flow.start
    trajectory = trajectory_results(model, batch(), frames=13)[0]["box_trajectory"]
    for t, boxes in zip(trajectory.times.tolist(), trajectory.boxes, strict=True):
        expected = to_absolute(model.heads.boxes((1 - t) * noise + t * anchors), (64, 64))
        torch.testing.assert_close(boxes, expected, atol=PIXELS, rtol=0)
    assert (trajectory.boxes[0] - trajectory.boxes[-1]).abs().max() > 5


def test_after_an_early_exit_the_path_is_a_straight_line_to_the_end():
    model = tiny_model(EARLY_EXIT=1.0, NUM_BLOCKS=10).eval()
    times, states = model.state_trajectory(model.encode(batch()))
    # all boxes have converged after the second step
    assert times == pytest.approx([0, 0.1, 0.2, 1])
    assert len(states) == 4
    z_1 = model.refine(model.encode(batch())).z_1
    torch.testing.assert_close(states[-1], z_1, atol=1e-4, rtol=0)


def test_needs_two_frames():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        box_trajectory(1)
