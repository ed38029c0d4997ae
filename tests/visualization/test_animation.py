"""What a film of travelling boxes shows."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.visualization.animation import animation_frames, trajectory_tile
from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import GAP, TILE, TITLE_FONT, DetectionVisualizer, class_color

# of a query that ends in a detection, and of one that does not, on an image of 80x80
FIRST = torch.tensor([[30.0, 30, 70, 70], [40.0, 10, 76, 76]])
LAST = torch.tensor([[8.0, 16, 32, 48], [50.0, 50, 60, 60]])
FRAMES = 5


def result(objectness=(0.9, 0.1)):
    times = torch.linspace(0, 1, FRAMES)
    boxes = torch.stack([torch.lerp(FIRST, LAST, float(t)) for t in times])
    found = Instances((80, 80), pred_boxes=Boxes(LAST[:1]), scores=torch.tensor([0.9]))
    found.pred_classes, found.pred_queries = torch.tensor([2]), torch.tensor([0])
    sure = torch.tensor(objectness).expand(FRAMES, -1)
    way = BoxTrajectory(times, boxes, sure)
    pixels = np.zeros((80, 80, 3), np.uint8)
    return {
        "pixels": pixels,
        "instances": found,
        "box_trajectory": way,
        "width": 80,
        "file_name": "a",
    }


def box_of_colour(picture, color):
    """The bounding box (in 80ths of a tile) of what has about this hue."""
    pixels = np.asarray(picture).astype(float)[2 * TITLE_FONT : 2 * TITLE_FONT + TILE, GAP:]
    pixels = pixels[:, :TILE]
    direction = np.array(color) / np.linalg.norm(color)
    along = pixels @ direction
    across = np.linalg.norm(pixels - along[..., None] * direction, axis=-1)
    rows, columns = np.nonzero((along > 100) & (across < 0.25 * along))
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()]) * 80 / TILE


def test_the_box_moves_from_its_start_to_the_detection():
    shown = result()
    frames = list(animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [shown], ["image"]))
    assert len(frames) == FRAMES + 1
    assert len({frame.size for frame in frames}) == 1
    seen = np.array([box_of_colour(frame, class_color(2)) for frame in frames])
    np.testing.assert_allclose(seen[:-1], shown["box_trajectory"].boxes[:, 0].numpy(), atol=1)
    # the last frame is the visualizer's, with a label above the box
    np.testing.assert_allclose(seen[-1][[0, 2, 3]], LAST[0, [0, 2, 3]].numpy(), atol=2)
    distance = np.abs(seen[:-1] - LAST[0].numpy()).mean(axis=1)
    assert (np.diff(distance) < 0).all()


def test_an_unsure_box_shows_its_start_and_fades():
    shown = result(objectness=(0.9, 0.0))
    black = frame_image()
    light = []
    for f in range(FRAMES):
        tile = np.asarray(trajectory_tile(black, shown["box_trajectory"], f, {0: 2}, 80))
        x1, y1, x2, _ = (shown["box_trajectory"].boxes[f, 1] * 4).round().int().tolist()
        # a piece of its upper edge that the other box does not cover
        light.append(int(tile[y1, x2 - 6].max()))
    assert light[0] > 80 and light[-1] == 0
    assert light == sorted(light, reverse=True)


def frame_image():
    return DetectionVisualizer(["a", "b", "c"], 0.99).tile(result())


def test_below_the_threshold_no_box_is_coloured():
    frames = list(
        animation_frames(DetectionVisualizer(["a", "b", "c"], 0.95), [result()], ["image"])
    )
    with pytest.raises(ValueError):
        box_of_colour(frames[0], class_color(2))


def test_several_images_side_by_side():
    one = next(animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [result()], ["image"]))
    many = list(
        animation_frames(DetectionVisualizer(["a", "b", "c"], 0.5), [result()] * 3, ["x", "y", "z"])
    )
    assert len(many) == FRAMES + 1
    assert many[0].width > 2.5 * one.width and many[0].height == one.height
