"""Animation of boxes: positions, colors, opacity and layout of the frames."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from flowdet.visualization.animation import animation_frames, trajectory_tile
from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import GAP, TILE, TITLE_FONT, DetectionVisualizer, class_color

# the first and last boxes of a query that ends in a detection and of one that does not, in an 80x80
# image
FIRST = torch.tensor([[30.0, 30, 70, 70], [40.0, 10, 76, 76]])
LAST = torch.tensor([[8.0, 16, 32, 48], [50.0, 50, 60, 60]])
FRAMES = 5


def result(objectness=(0.9, 0.1)):
    """A result with the trajectory of two queries, of which the first ends in a detection."""
    times = torch.linspace(0, 1, FRAMES)
    boxes = torch.stack([torch.lerp(FIRST, LAST, float(t)) for t in times])
    detections = Instances((80, 80), pred_boxes=Boxes(LAST[:1]), scores=torch.tensor([0.9]))
    detections.pred_classes, detections.pred_queries = torch.tensor([2]), torch.tensor([0])
    objectness = torch.tensor(objectness).expand(FRAMES, -1)
    return {
        "pixels": np.zeros((80, 80, 3), np.uint8),
        "instances": detections,
        "box_trajectory": BoxTrajectory(times, boxes, objectness),
        "width": 80,
        "file_name": "a",
    }


def box_of_color(picture, color):
    """The bounding box of the pixels of about this hue, in 80ths of a tile."""
    pixels = np.asarray(picture).astype(float)[2 * TITLE_FONT : 2 * TITLE_FONT + TILE, GAP:]
    pixels = pixels[:, :TILE]
    direction = np.array(color) / np.linalg.norm(color)
    along = pixels @ direction
    across = np.linalg.norm(pixels - along[..., None] * direction, axis=-1)
    rows, columns = np.nonzero((along > 100) & (across < 0.25 * along))
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()]) * 80 / TILE


def test_the_box_moves_from_its_start_to_the_detection():
    moving = result()
    frames = list(animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [moving], ["image"]))
    assert len(frames) == FRAMES + 1
    assert len({frame.size for frame in frames}) == 1
    drawn = np.array([box_of_color(frame, class_color(2)) for frame in frames])
    np.testing.assert_allclose(drawn[:-1], moving["box_trajectory"].boxes[:, 0].numpy(), atol=1)
    # the last frame is the visualizer's, with a label above the box
    np.testing.assert_allclose(drawn[-1][[0, 2, 3]], LAST[0, [0, 2, 3]].numpy(), atol=2)


def test_a_box_of_no_objectness_is_visible_at_the_start_and_fades():
    trajectory = result(objectness=(0.9, 0.0))["box_trajectory"]
    black = Image.new("RGB", (TILE, TILE))
    brightness = []
    for f in range(FRAMES):
        tile = np.asarray(trajectory_tile(black, trajectory, f, {0: 2}, 80))
        x1, y1, x2, _ = (trajectory.boxes[f, 1] * 4).round().int().tolist()
        # a point of its upper edge that the other box does not cover
        brightness.append(int(tile[y1, x2 - 6].max()))
    # gray of 0.75 at opacity 0.5, 0.375, ... 0
    assert brightness == pytest.approx([255 * 0.75 * 0.5 * (1 - t / 4) for t in range(5)], abs=2)


def test_queries_below_the_threshold_are_gray():
    frames = list(
        animation_frames(DetectionVisualizer(["a", "b", "c"], 0.95), [result()], ["image"])
    )
    with pytest.raises(ValueError, match="zero-size array"):
        box_of_color(frames[0], class_color(2))


def test_several_images_side_by_side():
    one = next(animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [result()], ["image"]))
    many = list(
        animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [result()] * 3, ["x", "y", "z"])
    )
    assert len(many) == FRAMES + 1
    assert many[0].width > 2.5 * one.width and many[0].height == one.height
