"""Scaled boxes, padding with random boxes, box renewal."""

import pytest
import torch

from flowdet.detection.box_transport.states import BoxScale, padded_boxes, renewed
from tests.detection.tiny import random_targets, targets_of


def test_scaling_by_hand_and_back():
    scale = BoxScale(2.0)
    boxes = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    assert scale.scaled(boxes).tolist() == [[-2, -1, 0, 2]]
    random = torch.rand(50, 4)
    torch.testing.assert_close(scale.normalized(scale.scaled(random)), random, atol=1e-6, rtol=0)


def test_boxes_are_clamped_to_the_image():
    scale = BoxScale(2.0)
    boxes = scale.normalized(torch.tensor([[-7.0, -2.0, 2.0, 3.0]]))
    assert boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_a_scale_must_be_above_0(limit):
    with pytest.raises(ValueError, match="SIGNAL_SCALE must be above 0"):
        BoxScale(limit)


def test_objects_come_first_and_random_boxes_follow():
    scale, box = BoxScale(2.0), (0.5, 0.25, 0.125, 1.0)
    targets = targets_of([(1, box), (0, box)], [], [(2, box)])
    padded = padded_boxes(targets, 6, scale)
    assert padded.shape == (3, 6, 4)
    expected = scale.scaled(torch.tensor(box))
    for i, count in enumerate((2, 0, 1)):
        assert torch.equal(padded[i, :count], expected.expand(count, 4))
    random = torch.cat([padded[i, count:].flatten() for i, count in enumerate((2, 0, 1))])
    # apart from the clamped ones; the padding of the targets would be -2 too
    inside = random[random.abs() < 2]
    assert len(inside.unique()) == len(inside) > 0.9 * len(random)


def test_random_boxes_are_clamped_noise():
    padded = padded_boxes(targets_of([]), 10_000, BoxScale(2.0))
    assert padded.abs().max() == 2
    assert padded.mean().item() == pytest.approx(0, abs=0.03)
    # a standard normal variable that is clamped at two standard deviations
    assert padded.std().item() == pytest.approx(0.96, abs=0.02)


def test_as_many_objects_as_boxes_leave_no_room_for_random_boxes():
    targets, scale = random_targets([3, 3]), BoxScale(1.0)
    assert torch.equal(padded_boxes(targets, 3, scale), scale.scaled(targets.boxes))


def test_renewal_replaces_only_boxes_below_the_threshold():
    states, random = torch.zeros(2, 3, 4), torch.ones(3, 4)
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.0, 0.19, 0.9]])
    replaced = renewed(states, scores, 0.2, random)
    assert replaced[..., 0].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert torch.equal(renewed(states, scores, 0.0, random), states)
