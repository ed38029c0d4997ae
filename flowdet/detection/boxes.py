"""Box arithmetic: grids of boxes, sample points, IoU, conversion of coordinates."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes
from torch import Tensor

# the divisors of IoU and generalized IoU are at least this, so that boxes without area have values
_SMALLEST_AREA = 1e-12


def grid_boxes(count: int) -> Tensor:
    """Returns boxes that tile the image in rows, [count, 4], normalized cxcywh."""
    rows = max(round(count**0.5), 1)
    boxes = []
    for row in range(rows):
        columns = count // rows + (row < count % rows)
        for column in range(columns):
            boxes.append([(column + 0.5) / columns, (row + 0.5) / rows, 1 / columns, 1 / rows])
    return torch.tensor(boxes)


def box_points(boxes: Tensor, count: int) -> Tensor:
    """Returns a grid of `count` x `count` points in each box. The outer points lie on its edges.

    Args:
        boxes: [..., 4], normalized cxcywh.
        count: number of points per side. A single point is the center of the box.

    Returns:
        (x, y) in normalized image coordinates, [..., count * count, 2], in row-major order.
    """
    edge = 0.5 if count > 1 else 0.0
    steps = torch.linspace(-edge, edge, count, device=boxes.device)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
    return boxes[..., None, :2] + offsets * boxes[..., None, 2:]


def to_corners(boxes: Tensor) -> Tensor:
    """Converts boxes [..., 4] from cxcywh to xyxy.

    It takes 4 operations, torchvision's `box_convert` 14, and a training step converts many boxes.
    """
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def paired_iou(one: Tensor, other: Tensor) -> Tensor:
    """Computes the IoU of box i of `one` with box i of `other`: [..., 4], xyxy, to [...].

    Boxes [..., M, 1, 4] and [..., 1, G, 4] give the IoU of all pairs, [..., M, G]. It is 0 for two
    boxes without area. detectron2's `matched_pairwise_iou` is not used, because it would fix the
    batch size in an exported graph.
    """
    intersection, union = _intersection_and_union(one, other)
    return intersection / union


def paired_iou_and_giou(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the IoU and the generalized IoU of boxes; for the shapes see `paired_iou`.

    torchvision's and fvcore's losses select the boxes that overlap by a mask, which waits for the
    device, and do not return the IoU. torchvision's matrix of all pairs takes no batch.
    """
    intersection, union = _intersection_and_union(one, other)
    iou = intersection / union
    sides = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(
        one[..., :2], other[..., :2]
    )
    width, height = sides.unbind(-1)
    hull = (width * height).clamp(min=_SMALLEST_AREA)
    return iou, iou - 1 + union / hull


def _intersection_and_union(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the areas of the intersections and unions. A union is above 0."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(
        one[..., :2], other[..., :2]
    )
    width, height = sides.clamp(min=0).unbind(-1)
    intersection = width * height
    union = _area(one) + _area(other) - intersection
    return intersection, union.clamp(min=_SMALLEST_AREA)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def to_absolute(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Converts boxes [..., 4] from normalized cxcywh to absolute xyxy, clipped to the image.

    Args:
        boxes: normalized cxcywh.
        size: (height, width) of the image, in pixels.
    """
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    pixels = Boxes(to_corners(boxes.reshape(-1, 4)) * scale)
    pixels.clip(size)
    return pixels.tensor.reshape(boxes.shape)
