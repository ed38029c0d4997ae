"""Box arithmetic by hand."""

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from flowdet.detection.boxes import (
    box_points,
    grid_boxes,
    paired_iou,
    paired_iou_and_giou,
    to_absolute,
    to_corners,
)


@pytest.mark.parametrize("count", [1, 2, 5, 7, 20, 100])
def test_grid_boxes_tile_the_image(count):
    boxes = grid_boxes(count)
    assert boxes.shape == (count, 4)
    corners = to_corners(boxes)
    assert corners.min() >= -1e-6 and corners.max() <= 1 + 1e-6
    # together as large as the image, and no two overlap
    assert (boxes[:, 2] * boxes[:, 3]).sum().item() == pytest.approx(1)
    assert (box_iou(corners, corners) - torch.eye(count)).abs().max() < 1e-4


def test_points_in_a_box():
    points = box_points(torch.tensor([0.5, 0.25, 0.4, 0.2]), 3)
    expected = [(x, y) for y in (0.15, 0.25, 0.35) for x in (0.3, 0.5, 0.7)]
    torch.testing.assert_close(points, torch.tensor(expected))


def test_a_single_box_point_is_the_center():
    assert box_points(torch.tensor([0.5, 0.25, 0.4, 0.2]), 1).tolist() == [[0.5, 0.25]]


def test_paired_iou_by_hand():
    one = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.0, 0.0]]])
    other = torch.tensor([[[0.6, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0]]])
    iou = paired_iou(to_corners(one), to_corners(other))
    torch.testing.assert_close(iou, torch.tensor([[1 / 3, 1 / 2, 0.0]]))


def test_paired_iou_is_the_diagonal_of_box_iou():
    torch.manual_seed(0)
    one, other = (to_corners(0.1 + 0.8 * torch.rand(200, 4)) for _ in range(2))
    torch.testing.assert_close(paired_iou(one, other), torch.diag(box_iou(one, other)))
    # broadcast over a leading dimension
    both = paired_iou(one[None], torch.stack([one, other]))
    torch.testing.assert_close(both[0], torch.ones(200))
    torch.testing.assert_close(both[1], paired_iou(one, other))


def test_iou_and_giou_of_all_pairs_are_those_of_torchvision():
    torch.manual_seed(0)
    one, other = to_corners(0.1 + 0.4 * torch.rand(3, 7, 4)), to_corners(torch.rand(3, 5, 4))
    iou, giou = paired_iou_and_giou(one[:, :, None], other[:, None])
    assert giou.min() < 0 < giou.max()
    for i in range(3):
        torch.testing.assert_close(iou[i], box_iou(one[i], other[i]))
        torch.testing.assert_close(giou[i], generalized_box_iou(one[i], other[i]))


def test_giou_of_boxes_without_area_has_a_finite_gradient():
    corners = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.4]], requires_grad=True)
    iou, giou = paired_iou_and_giou(corners, torch.tensor([0.5, 0.5, 0.5, 0.5]))
    assert iou.tolist() == [0, 0]
    giou.sum().backward()
    assert corners.grad.isfinite().all()


def test_absolute_boxes_are_clipped_to_the_image():
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5]], [[1.0, 0.0, 0.5, 0.5]]])
    assert to_absolute(boxes, (40, 80)).tolist() == [[[20, 10, 60, 30]], [[60, 0, 80, 10]]]
