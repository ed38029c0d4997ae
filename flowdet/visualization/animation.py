"""Animates the boxes of all queries from noise to detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from flowdet.visualization.box_trajectory import BoxTrajectory
from flowdet.visualization.drawing import (
    TILE,
    DetectionVisualizer,
    class_color,
    contact_sheet,
    image_of,
    sheet_columns,
)

# line width in pixels of the queries that end in a detection, and of the others
DETECTED_WIDTH, OTHER_WIDTH = 3, 2
# color of the queries that do not end in a detection
GRAY = (0.75, 0.75, 0.75)
# The minimum opacity of a box at t = 0, so that all queries are visible there. It falls linearly to
# 0 at t = 1.
START_OPACITY = 0.5


def animation_frames(
    visualizer: DetectionVisualizer, results: Sequence[dict], titles: Sequence[str]
) -> Iterator[Image.Image]:
    """Yields the frames of an animation: the boxes of all queries over time, then the detections.

    Several images are shown side by side. At t = 0 the boxes are decoded from noise. A query that
    ends in a drawn detection has the color of its class; the others are gray. The opacity of a box
    is its objectness. The last frame shows the detections, as `DetectionVisualizer.tile` does.

    Args:
        visualizer: draws the detections.
        results: the results of a predictor, with `box_trajectory`; all have the same times.
        titles: the titles of the images.

    Yields:
        Frames of one size: one per time, and one of the detections.
    """
    columns = sheet_columns(len(results))
    times = results[0]["box_trajectory"].times.tolist()
    captions = [*(f", t = {t:.2f}" for t in times), ": detections"]
    tiles = [trajectory_tiles(visualizer, result) for result in results]
    for caption, *frame in zip(captions, *tiles, strict=True):
        yield contact_sheet(frame, [title + caption for title in titles], columns)


def trajectory_tiles(visualizer: DetectionVisualizer, result: dict) -> Iterator[Image.Image]:
    """Yields the tiles of one image: the boxes of its queries over time, then the detections."""
    image = _scaled_to_tile(image_of(result))
    drawn = visualizer.above_threshold(result["instances"])
    classes = dict(zip(drawn.pred_queries.tolist(), drawn.pred_classes.tolist()))
    trajectory = result["box_trajectory"]
    for frame in range(len(trajectory.times)):
        yield trajectory_tile(image, trajectory, frame, classes, result["width"])
    yield visualizer.tile(result)


def trajectory_tile(
    image: Image.Image, trajectory: BoxTrajectory, frame: int, classes: dict[int, int], width: int
) -> Image.Image:
    """Draws the boxes of all queries at one time on an image.

    Args:
        image: the image, scaled to the size of the tile.
        trajectory: the box trajectory of the image.
        frame: index of the time in `trajectory.times`.
        classes: the class index of every query that ends in a detection, by query index.
        width: width of the original image, in pixels.
    """
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    boxes = trajectory.boxes[frame] * (image.width / width)
    least = START_OPACITY * (1 - float(trajectory.times[frame]))
    opacity = trajectory.objectness[frame].clamp(min=least).tolist()
    # queries that end in a detection are drawn last, on top
    for query in sorted(range(len(boxes)), key=lambda q: (q in classes, opacity[q])):
        detected = query in classes
        color = class_color(classes[query]) if detected else GRAY
        outline = tuple(round(255 * x) for x in (*color, opacity[query]))
        line_width = DETECTED_WIDTH if detected else OTHER_WIDTH
        pen.rectangle(boxes[query].tolist(), outline=outline, width=line_width)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _scaled_to_tile(image: Image.Image) -> Image.Image:
    """Scales an image to a longer side of `TILE` pixels."""
    factor = TILE / max(image.size)
    size = [max(round(x * factor), 1) for x in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)
