"""Thumbnails of the most confident false positives and of the largest misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.error_analysis import ErrorAnalysis
from flowdet.evaluation.error_analysis.examples import FalsePositive, Miss
from flowdet.evaluation.matching import ground_truth_instances
from flowdet.reporting.report.gallery import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    Picture,
)
from flowdet.visualization.drawing import image_of
from flowdet.visualization.embedding import data_uri

# sides in pixels of a thumbnail and of a whole image
THUMBNAIL, WHOLE = 160, 480
# a thumbnail shows this many times the longer side of the box, and at least this number of pixels
_CONTEXT, _SMALLEST = 1.6, 24
_OBJECT, _MISS, _FALSE = (
    tuple(round(255 * x) for x in color)
    for color in (TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE)
)
_HALO = (0, 0, 0)

Box = Sequence[float]
Color = tuple[int, ...]


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail that links to a whole image.

    Attributes:
        picture: the thumbnail.
        image: the index of the whole image in `ErrorPictures.images`.
    """

    picture: Picture
    image: int


@dataclass(frozen=True)
class ErrorPictures:
    """The examples of errors.

    Attributes:
        false_positives: the most confident first.
        misses: the largest first.
        images: the whole images, with all objects and the errors of both lists.
    """

    false_positives: list[Thumbnail]
    misses: list[Thumbnail]
    images: list[Picture]


def error_pictures(analysis: ErrorAnalysis, value_range: Sequence[float]) -> ErrorPictures:
    """Draws the examples of an analysis.

    Args:
        analysis: the analysis.
        value_range: `INPUT.VALUE_RANGE`.

    Raises:
        OSError, ValueError: an image or the dataset cannot be read.
    """
    errors = [*analysis.confident, *analysis.misses]
    ids = list(dict.fromkeys(error.image_id for error in errors))
    wanted = set(ids)
    records = {
        r["image_id"]: {**r, "value_range": value_range}
        for r in get_detection_dicts(analysis.dataset, keep_difficult=True)
        if r["image_id"] in wanted
    }
    thumbnails: dict[int, Thumbnail] = {}
    images = []
    for number, image_id in enumerate(ids):
        record = records[image_id]
        of_image = [error for error in errors if error.image_id == image_id]
        # each image is read once
        image = image_of(record)
        name = Path(record["file_name"]).name
        for error in of_image:
            thumbnails[id(error)] = Thumbnail(_thumbnail(image, error, name), number)
        images.append(_whole(image, record, of_image, name))
    return ErrorPictures(
        [thumbnails[id(x)] for x in analysis.confident],
        [thumbnails[id(x)] for x in analysis.misses],
        images,
    )


def caption(error: FalsePositive | Miss) -> str:
    """Describes an error, e.g. "dog 95 %, classification: on a cat, IoU 0.82"."""
    if isinstance(error, FalsePositive):
        text = f"{error.class_name} {error.score:.0%}, {error.error}"
        if error.object_class is None:
            return text
        return f"{text}: on a {error.object_class}, IoU {error.iou:.2f}"
    if error.detected_class is None:
        return f"{error.class_name}, {error.error}"
    return f"{error.class_name}, {error.error}: {error.detected_class} {error.score:.0%}"


def _thumbnail(image: Image.Image, error: FalsePositive | Miss, name: str) -> Picture:
    x1, y1, x2, y2 = error.box
    side = max(_CONTEXT * max(x2 - x1, y2 - y1), _SMALLEST)
    # the part of the image around the box, as far as the image goes
    left, top = max((x1 + x2 - side) / 2, 0), max((y1 + y2 - side) / 2, 0)
    right, bottom = min((x1 + x2 + side) / 2, image.width), min((y1 + y2 + side) / 2, image.height)
    part = image.crop(
        (
            round(left),
            round(top),
            max(round(right), round(left) + 1),
            max(round(bottom), round(top) + 1),
        )
    )
    box = [x1 - round(left), y1 - round(top), x2 - round(left), y2 - round(top)]
    drawn = _draw(part, [(box, _color(error))], THUMBNAIL)
    text = caption(error)
    return Picture(data_uri(drawn), f"{text} ({name})", f"Part of image {name}: {text}")


def _whole(
    image: Image.Image, record: dict, errors: Sequence[FalsePositive | Miss], name: str
) -> Picture:
    objects = ground_truth_instances(record).gt_boxes.tensor.tolist()
    boxes = [(box, _OBJECT) for box in objects] + [(x.box, _color(x)) for x in errors]
    texts = "; ".join(caption(error) for error in errors)
    uri = data_uri(_draw(image, boxes, WHOLE))
    return Picture(
        uri, f"{name}: {texts}", f"Image {name} with its objects and the errors: {texts}"
    )


def _color(error: FalsePositive | Miss) -> Color:
    return _FALSE if isinstance(error, FalsePositive) else _MISS


def _draw(image: Image.Image, boxes: Sequence[tuple[Box, Color]], side: int) -> Image.Image:
    """Scales an image to a longer side of `side` pixels and draws boxes with a dark outline."""
    factor = side / max(image.size)
    size = [max(round(x * factor), 1) for x in image.size]
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for box, color in boxes:
        x1, y1, x2, y2 = (x * factor for x in box)
        corners = (x1, y1, max(x2, x1), max(y2, y1))
        pen.rectangle(
            [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=_HALO, width=4
        )
        pen.rectangle(corners, outline=color, width=2)
    return canvas
