"""Pictures of detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont

# pixels: the longer side of a tile (and the least of a picture, so that labels are readable on
# small images), the font of titles, the space around tiles
TILE = 320
TITLE_FONT = 15
GAP = 10
# points: the outline of a block's box
THIN = 0.6
# pixels per point at matplotlib's 100 dots per inch: a line's height, a letter's mean width
LINE, LETTER = 1.9, 0.9
# above this a sheet has more pixels than anyone looks at
MAX_TILES = 400


class DrawnBox(NamedTuple):
    """A box to be drawn.

    Attributes:
        box: absolute xyxy in pixels of the image.
        label: at its top; "" for none.
        color: RGB in [0, 1].
        style: of its line, as matplotlib names them.
        width: of its line in points; 0 is that of detectron2's boxes.
        below: whether the label is at its bottom instead.
    """

    box: Sequence[float]
    label: str
    color: tuple[float, ...]
    style: str = "-"
    width: float = 0
    below: bool = False


class DetectionVisualizer:
    """Draws results of `flowdet.engine.Predictor`.

    Args:
        class_names: by class index.
        score_threshold: detections below it are not drawn.
    """

    def __init__(self, class_names: Sequence[str], score_threshold: float = 0.0):
        self.class_names = class_names
        self.score_threshold = score_threshold

    def confident(self, instances: Instances) -> Instances:
        """The detections that are drawn; annotations, which have no scores, are all."""
        if not instances.has("scores"):
            return instances
        return instances[instances.scores >= self.score_threshold]

    def picture(self, result: dict) -> Image.Image:
        """An image with its detections, in its own size or enlarged to `TILE`."""
        image = image_of(result)
        return self._draw(image, result["instances"], max(TILE, *image.size))

    def tile(self, result: dict) -> Image.Image:
        """An image with its detections, its longer side `TILE` pixels."""
        return self._draw(image_of(result), result["instances"], TILE)

    def steps(self, result: dict) -> list[Image.Image]:
        """A tile for every step of a result with `trajectory`."""
        image = image_of(result)
        return [self._draw(image, instances, TILE) for instances in result["trajectory"]]

    def _draw(self, image: Image.Image, instances: Instances, side: int) -> Image.Image:
        """The image enlarged or shrunk to the longer side `side`, and the boxes on it."""
        instances = self.confident(instances)
        marks: list[DrawnBox] = []
        # the best last, on top
        for i in reversed(range(len(instances))):
            index = int(instances.pred_classes[i])
            label = self.class_names[index]
            if instances.has("scores"):
                label += f" {instances.scores[i]:.0%}"
            color = class_color(index)
            if instances.has("block_boxes"):
                label += f" ±{pixels_text(float(instances.box_spread[i]))}"
                drawn = instances.block_boxes[i].tolist()
                marks += [DrawnBox(box, "", light(color), width=THIN) for box in drawn]
            marks.append(DrawnBox(instances.pred_boxes.tensor[i].tolist(), label, color))
        return draw_boxes(image, marks, side)


def draw_boxes(image: Image.Image, marks: Sequence[DrawnBox], side: int = TILE) -> Image.Image:
    """The image enlarged or shrunk to the longer side `side`, and marks on it, the last on top."""
    factor = side / max(image.size)
    width, height = (max(round(x * factor), 1) for x in image.size)
    canvas = Visualizer(image.resize((width, height), Image.Resampling.BICUBIC))
    font = max(10, math.sqrt(width * height) / 70)
    scale = (width / image.width, height / image.height) * 2
    for mark in marks:
        box = [x * by for x, by in zip(mark.box, scale, strict=True)]
        if mark.width:
            _draw_thin(canvas, box, mark)
        else:
            canvas.draw_box(box, alpha=1, edge_color=mark.color, line_style=mark.style)
        if mark.label:
            corner = _label_corner(box, mark.label, font, width)
            if mark.below:
                corner = corner[0], min(box[3], height - LINE * font)
            shade = light(mark.color)  # the background of a label is black
            canvas.draw_text(
                mark.label, corner, font_size=font, color=shade, horizontal_alignment="left"
            )
    return Image.fromarray(canvas.get_output().get_image())


def _draw_thin(canvas: Visualizer, box: Sequence[float], mark: DrawnBox) -> None:
    """An outline of the mark's width, which the visualizer's own boxes cannot have."""
    x1, y1, x2, y2 = box
    corners = [x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1]
    canvas.output.ax.plot(*corners, color=mark.color, linewidth=mark.width, alpha=0.8)


def pixels_text(spread: float) -> str:
    """`0.4px`, `3.1px`, `12px`."""
    return f"{spread:.1f}px" if spread < 9.95 else f"{spread:.0f}px"


def light(color: tuple[float, float, float]) -> tuple[float, ...]:
    """A lighter shade of a colour."""
    return tuple(0.5 + 0.5 * x for x in color)


def class_color(index: int) -> tuple[float, float, float]:
    """A bright RGB colour in [0, 1]; steps by the golden ratio keep hues apart for any count."""
    return tuple(hsv_to_rgb((index * 0.618034 % 1, 0.75, 1.0)))


def _label_corner(box: list[float], label: str, font: float, width: int) -> tuple[float, float]:
    """Top left of a label above its box, moved into the image. `font` is in points."""
    x = min(box[0], width - LETTER * font * len(label))
    return max(x, 2), max(box[1] - LINE * font, 2)


def image_of(result: dict) -> Image.Image:
    """The image that a result, or a dataset dict, is of."""
    pixels = result.get("pixels")
    return Image.fromarray(read_image(result["file_name"], "RGB") if pixels is None else pixels)


def sheet_columns(count: int) -> int:
    """Columns of a grid between square and twice as wide as high, with few empty cells."""
    narrow, wide = math.ceil(math.sqrt(count)), math.ceil(math.sqrt(2 * count))
    return min(range(narrow, wide + 1), key=lambda columns: (-count % columns, columns))


def contact_sheet(
    tiles: Sequence[Image.Image], titles: Sequence[str], columns: int | None = None
) -> Image.Image:
    """Tiles in rows, each under its title.

    Args:
        tiles: images of about the same size.
        titles: as many; cut in the middle where they are wider than a tile.
        columns: per row; chosen by `sheet_columns` if None.

    Raises:
        ValueError: more than `MAX_TILES`.
    """
    check_tiles(len(tiles))
    columns = columns or sheet_columns(len(tiles))
    rows = math.ceil(len(tiles) / columns)
    bar = 2 * TITLE_FONT
    # wide enough for a title, should all images be narrow
    width = max(TILE // 2, *(tile.width for tile in tiles)) + GAP
    height = max(tile.height for tile in tiles) + bar
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TITLE_FONT)
    for i, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        x, y = GAP + i % columns * width, i // columns * height
        title = _shorten(title, width - GAP, font)
        pen.text((x, y + bar // 2), title, fill="black", font=font, anchor="lm")
        sheet.paste(tile, (x, y + bar))
    return sheet


def check_tiles(count: int) -> None:
    """Raises ValueError for a sheet that would be too large to look at."""
    if count > MAX_TILES:
        raise ValueError(
            f"one sheet of {count} tiles is too large (at most {MAX_TILES}): write to a folder, "
            "or take fewer images"
        )


def _shorten(title: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Takes letters out of the middle until the title fits `width` pixels."""
    short, keep = title, len(title)
    while font.getlength(short) > width and keep > 2:
        keep -= 1
        short = f"{title[: keep // 2]}...{title[-(keep - keep // 2) :]}"
    return short
