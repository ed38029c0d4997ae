"""The frames of a film that shows how the boxes of an image travel."""

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

# pixels: the outlines of boxes that end in a detection, and of the others
WIDE, NARROW = 3, 2
# of the boxes that end in no detection
GREY = (0.75, 0.75, 0.75)
# the least opacity at t = 0, so that every box is seen to start; it falls to 0 at t = 1
START_OPACITY = 0.5


def animation_frames(
    visualizer: DetectionVisualizer, results: Sequence[dict], titles: Sequence[str]
) -> Iterator[Image.Image]:
    """A film of many images side by side: first the boxes of all queries, then the detections.

    At t = 0 the boxes are what noise decodes to; they move as the state of each query does. A
    query that ends in a drawn detection has the colour of its class, the others are grey, and each
    is as opaque as it is sure to hold any object. The last frame shows the detections, as
    `DetectionVisualizer.tile` does.

    Args:
        visualizer: draws the detections.
        results: of a predictor, with `travel`, all of as many times.
        titles: of the images.

    Returns:
        Frames of one size: one per time of the travels, and one of the detections.
    """
    columns = sheet_columns(len(results))
    times = results[0]["box_trajectory"].times.tolist()
    captions = [*(f", t = {t:.2f}" for t in times), ": detections"]
    tiles = [trajectory_tiles(visualizer, result) for result in results]
    for caption, *frame in zip(captions, *tiles, strict=True):
        yield contact_sheet(frame, [title + caption for title in titles], columns)


def trajectory_tiles(visualizer: DetectionVisualizer, result: dict) -> Iterator[Image.Image]:
    """The film of one image: the boxes of its queries at each time, then the detections."""
    image, drawn = _enlarged(image_of(result)), visualizer.confident(result["instances"])
    ends = dict(zip(drawn.pred_queries.tolist(), drawn.pred_classes.tolist()))
    for frame in range(len(result["box_trajectory"].times)):
        yield trajectory_tile(image, result["box_trajectory"], frame, ends, result["width"])
    yield visualizer.tile(result)


def trajectory_tile(
    image: Image.Image, travel: BoxTrajectory, frame: int, ends: dict[int, int], width: int
) -> Image.Image:
    """The boxes of all queries at one time, on an image.

    Args:
        image: in the size of the tile.
        frame: which of the times.
        ends: the class of each query that ends in a detection.
        width: of the original image, in pixels.
    """
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    boxes = travel.boxes[frame] * (image.width / width)
    least = START_OPACITY * (1 - float(travel.times[frame]))
    opacity = travel.objectness[frame].clamp(min=least).tolist()
    # those that end in a detection last, on top
    for query in sorted(range(len(boxes)), key=lambda q: (q in ends, opacity[q])):
        color = class_color(ends[query]) if query in ends else GREY
        shade = tuple(round(255 * x) for x in (*color, opacity[query]))
        pen.rectangle(boxes[query].tolist(), outline=shade, width=WIDE if query in ends else NARROW)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _enlarged(image: Image.Image) -> Image.Image:
    """Its longer side `TILE` pixels."""
    factor = TILE / max(image.size)
    size = [max(round(x * factor), 1) for x in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)
