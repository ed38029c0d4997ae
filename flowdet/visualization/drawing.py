"""Draws detections on images and arranges images on sheets."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from detectron2.structures import Instances
from PIL import Image, ImageDraw

from flowdet.config.errors import UsageError
from flowdet.data.image_reader import read_image
from flowdet.visualization.fonts import TitleFont, drawable, font_families, log_font_note

if TYPE_CHECKING:
    # matplotlib is loaded when something is drawn: it takes as long as a third of torch
    from detectron2.utils.visualizer import Visualizer

# The longer side of a tile in pixels. Smaller pictures are enlarged to it, so that their labels are
# readable.
TILE = 320
# in pixels: the font size of titles, and the space around tiles
TITLE_FONT = 15
GAP = 10
# in points: the line width of the box that a single block predicts
BLOCK_BOX_WIDTH = 0.6
# pixels per point of a font at matplotlib's 100 dots per inch: line height and mean letter width
LINE_HEIGHT, LETTER_WIDTH = 1.9, 0.9
# the maximum number of tiles on a sheet
MAX_TILES = 400


class DrawnBox(NamedTuple):
    """A box to be drawn.

    Attributes:
        box: absolute xyxy in pixels of the image.
        label: text above the box; "" for none.
        color: RGB in [0, 1].
        style: line style of matplotlib, such as "-" or ":".
        width: line width in points; 0 is the default of detectron2's boxes.
        below: whether the label is below the box.
    """

    box: Sequence[float]
    label: str
    color: tuple[float, ...]
    style: str = "-"
    width: float = 0
    below: bool = False


class DetectionVisualizer:
    """Draws the results of a `flowdet.inference.Predictor`.

    Args:
        class_names: the class names by class index.
        score_threshold: detections with a lower score are not drawn.
    """

    def __init__(self, class_names: Sequence[str], score_threshold: float = 0.0):
        log_font_note(class_names)
        self.class_names = class_names
        self.score_threshold = score_threshold

    def above_threshold(self, instances: Instances) -> Instances:
        """Selects the detections to draw: all if they have no scores."""
        if not instances.has("scores"):
            return instances
        return instances[instances.scores >= self.score_threshold]

    def picture(self, result: dict, side: int | None = None) -> Image.Image:
        """Draws the detections on their image.

        Args:
            result: the result of a predictor.
            side: the longer side of the picture in pixels; None is that of the image, but at least
                `TILE`.
        """
        image = image_of(result)
        return self._draw(image, result["instances"], side or max(TILE, *image.size))

    def tile(self, result: dict) -> Image.Image:
        """Draws the detections on their image, scaled to a longer side of `TILE`."""
        return self._draw(image_of(result), result["instances"], TILE)

    def steps(self, result: dict) -> list[Image.Image]:
        """Draws one tile per step, with the detections after it; the result has `trajectory`."""
        image = image_of(result)
        return [self._draw(image, instances, TILE) for instances in result["trajectory"]]

    def _draw(self, image: Image.Image, instances: Instances, side: int) -> Image.Image:
        """Draws detections on an image, scaled to a longer side of `side` pixels."""
        instances = self.above_threshold(instances)
        boxes: list[DrawnBox] = []
        # the best detection is drawn last, on top
        for i in reversed(range(len(instances))):
            index = int(instances.pred_classes[i])
            label = self.class_names[index]
            if instances.has("scores"):
                label += f" {instances.scores[i]:.0%}"
            color = class_color(index)
            if instances.has("block_boxes"):
                label += f" ±{pixels_text(float(instances.box_spread[i]))}"
                boxes += [
                    DrawnBox(box, "", light(color), width=BLOCK_BOX_WIDTH)
                    for box in instances.block_boxes[i].tolist()
                ]
            boxes.append(DrawnBox(instances.pred_boxes.tensor[i].tolist(), label, color))
        return draw_boxes(image, boxes, side)


def draw_boxes(image: Image.Image, boxes: Sequence[DrawnBox], side: int = TILE) -> Image.Image:
    """Scales an image to a longer side of `side` pixels and draws boxes on it, the last on top."""
    from detectron2.utils.visualizer import Visualizer

    factor = side / max(image.size)
    width, height = (max(round(x * factor), 1) for x in image.size)
    picture = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas = Visualizer(picture)
    # a line outside of the image must not move the others
    canvas.output.ax.autoscale(False)
    font = max(10, math.sqrt(width * height) / 70)
    scale = (width / image.width, height / image.height) * 2
    log_font_note(drawn.label for drawn in boxes)
    for drawn in boxes:
        box = [x * factor for x, factor in zip(drawn.box, scale, strict=True)]
        if drawn.width:
            _draw_outline(canvas, box, drawn)
        else:
            canvas.draw_box(box, alpha=1, edge_color=drawn.color, line_style=drawn.style)
        if drawn.label:
            corner = _label_corner(box, drawn.label, font, width)
            if drawn.below:
                corner = corner[0], min(box[3], height - LINE_HEIGHT * font)
            _draw_label(canvas, drawn, corner, font)
    picture.paste(overlay := _overlay(canvas), mask=overlay)
    return picture


def _overlay(canvas: Visualizer) -> Image.Image:
    """Returns what was drawn on a canvas, RGBA, without the image below.

    matplotlib would draw the image too, with 120 bytes of memory per pixel.
    """
    for image in canvas.output.ax.images:
        image.set_visible(False)
    drawn = canvas.output.canvas
    drawn.draw()
    return Image.frombuffer("RGBA", drawn.get_width_height(), drawn.buffer_rgba())


def _draw_outline(canvas: Visualizer, box: Sequence[float], drawn: DrawnBox) -> None:
    """Draws `box` with the line width of `drawn`, which `Visualizer.draw_box` cannot set."""
    x1, y1, x2, y2 = box
    corners = [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]
    canvas.output.ax.plot(*corners, color=drawn.color, linewidth=drawn.width, alpha=0.8)


def _draw_label(
    canvas: Visualizer, drawn: DrawnBox, corner: tuple[float, float], font: float
) -> None:
    """Draws the label of `drawn` with its top left corner at `corner`, in any script."""
    label = drawable(drawn.label)
    # a light color, because the background of a label is black
    color = light(drawn.color)
    canvas.draw_text(label, corner, font_size=font, color=color, horizontal_alignment="left")
    text = canvas.output.ax.texts[-1]
    text.set_family(font_families(label))
    # a "$" in a class name does not start a formula
    text.set_parse_math(False)


def pixels_text(spread: float) -> str:
    """Formats a number of pixels, e.g. `0.4px`, `3.1px`, `12px`."""
    return f"{spread:.1f}px" if spread < 9.95 else f"{spread:.0f}px"


def light(color: tuple[float, float, float]) -> tuple[float, ...]:
    """Returns a lighter shade of an RGB color in [0, 1]."""
    return tuple(0.5 + 0.5 * x for x in color)


def class_color(index: int) -> tuple[float, float, float]:
    """Returns the color of a class, RGB in [0, 1]. Golden-ratio steps of the hue separate them."""
    from matplotlib.colors import hsv_to_rgb

    return tuple(hsv_to_rgb((index * 0.618034 % 1, 0.75, 1.0)))


def _label_corner(box: list[float], label: str, font: float, width: int) -> tuple[float, float]:
    """Returns the top left corner of a label above its box, moved into the image.

    Args:
        box: xyxy in pixels.
        label: the text.
        font: font size in points.
        width: width of the image in pixels.
    """
    # Chinese, Japanese and Korean letters have the width of two others
    letters = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)
    x = min(box[0], width - LETTER_WIDTH * font * letters)
    return max(x, 2), max(box[1] - LINE_HEIGHT * font, 2)


def image_of(result: dict) -> Image.Image:
    """Returns the image of a result or a dataset dict, from its `pixels` or its file.

    The file is read with the `value_range` of the result, by default ().

    Raises:
        OSError, ValueError: as `flowdet.data.image_reader.read_image`.
    """
    pixels = result.get("pixels")
    if pixels is None:
        pixels = read_image(result["file_name"], result.get("value_range", ()))
    return Image.fromarray(pixels)


def sheet_columns(count: int) -> int:
    """Returns the number of columns with which `count` tiles leave the fewest cells empty. The grid
    is between square and twice as wide as high."""
    narrow, wide = math.ceil(math.sqrt(count)), math.ceil(math.sqrt(2 * count))
    return min(range(narrow, wide + 1), key=lambda columns: (-count % columns, columns))


def contact_sheet(
    tiles: Sequence[Image.Image], titles: Sequence[str], columns: int | None = None
) -> Image.Image:
    """Arranges tiles in rows, each below its title.

    Args:
        tiles: images of about the same size.
        titles: one per tile; titles wider than a tile are shortened in the middle.
        columns: tiles per row; None takes `sheet_columns`.

    Raises:
        ValueError: there are more than `MAX_TILES` tiles.
    """
    check_tiles(len(tiles))
    columns = columns or sheet_columns(len(tiles))
    rows = math.ceil(len(tiles) / columns)
    bar = 2 * TITLE_FONT
    # wide enough for a title even if all images are narrow
    width = max(TILE // 2, *(tile.width for tile in tiles)) + GAP
    height = max(tile.height for tile in tiles) + bar
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), TitleFont(TITLE_FONT)
    log_font_note(titles)
    for i, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        x, y = GAP + i % columns * width, i // columns * height
        title = _shorten(title, width - GAP, font)
        font.draw(pen, (x, y + bar // 2), title)
        sheet.paste(tile, (x, y + bar))
    return sheet


def check_tiles(count: int) -> None:
    """Raises ValueError if a sheet would have more than `MAX_TILES` tiles."""
    if count > MAX_TILES:
        raise UsageError(
            f"one sheet of {count} tiles is too large (at most {MAX_TILES}): write to a folder, "
            "or use fewer images"
        )


def _shorten(title: str, width: int, font: TitleFont) -> str:
    """Removes letters from the middle until the title fits into `width` pixels."""
    short, keep = title, len(title)
    while font.getlength(short) > width and keep > 2:
        keep -= 1
        short = f"{title[: keep // 2]}...{title[-(keep - keep // 2) :]}"
    return short
