"""Rows of YOLO label files: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flowdet.data.custom.formats.base import to_number

__all__ = ["BOX", "KEYPOINTS", "POLYGON", "SCORE", "Row", "is_label_file", "parse_row"]

# how a row gives its box; all but the first are reported
BOX, SCORE, POLYGON, KEYPOINTS = "box", "score", "polygon", "keypoints"
# coordinates outside of this interval are not fractions of the image
_LOWEST, _HIGHEST = -0.5, 1.5
_MAX_ID = 1e9
_HEAD_BYTES = 1 << 14


class Row(NamedTuple):
    """An object in a label file.

    Attributes:
        class_id: the class id.
        corners: x1, y1, x2, y2 as fractions of the width and height of the image.
        kind: `BOX`, `SCORE` (a box with a confidence), `POLYGON` or `KEYPOINTS`.
    """

    class_id: int
    corners: tuple[float, float, float, float]
    kind: str


def is_label_file(file: Path) -> bool:
    """Whether the first row of a text file is that of a label file; False for an empty file."""
    with open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    text = head.decode(
        "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "replace"
    )
    values = next((line.split() for line in text.splitlines() if line.strip()), [])
    numbers = [to_number(value) for value in values]
    return len(numbers) >= 5 and None not in numbers and numbers[0].is_integer()


def parse_row(line: str, keypoint_values: int = 0) -> Row:
    """Parses a row that is not blank.

    Args:
        line: the text of the row.
        keypoint_values: the number of values for the keypoints of an object, from the key
            `kpt_shape` of the data file.

    Raises:
        ValueError: the row is not that of an object. The message has no location.
    """
    class_text, *texts = line.split()
    numbers = [to_number(text) for text in texts]
    kind = _kind(len(numbers), keypoint_values)
    if kind is None:
        hint = ", separated by blanks" if "," in line or ";" in line else ""
        raise ValueError(
            f"the row is {_shortened(line)!r}; give a class id and x, y, width and height{hint}, "
            "or a polygon of at least 3 points"
        )
    if None in numbers:
        text = texts[numbers.index(None)]
        raise ValueError(f"{text!r} is not a number; give fractions of the image, such as 0.25")
    class_id = to_number(class_text)
    if class_id is None or not class_id.is_integer() or abs(class_id) > _MAX_ID:
        raise ValueError(f"the class id is {class_text!r}; give an integer")
    if kind == SCORE and not 0 <= numbers.pop() <= 1:
        raise ValueError(f"the row has a 6th value, {texts[-1]}, which is not a confidence")
    if kind == KEYPOINTS:
        del numbers[4:]
    _check_fractions(numbers)
    corners = _polygon_corners(numbers) if kind == POLYGON else _box_corners(numbers)
    return Row(int(class_id), corners, kind)


def _kind(count: int, keypoint_values: int) -> str | None:
    """Returns the kind of a row with this number of values after the class id."""
    if count == 4:
        return BOX
    if keypoint_values and count == 4 + keypoint_values:
        return KEYPOINTS
    if count == 5:
        return SCORE
    return POLYGON if count >= 6 and count % 2 == 0 else None


def _check_fractions(numbers: list[float]) -> None:
    wrong = next((x for x in numbers if not _LOWEST <= x <= _HIGHEST), None)
    if wrong is not None:
        raise ValueError(
            f"the coordinate {wrong:g} is not a fraction of the width or height of the image, "
            "from 0 to 1; pixels must be divided by them"
        )


def _box_corners(numbers: list[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = numbers
    if w < 0 or h < 0:
        raise ValueError(f"the box has the negative width or height {min(w, h):g}")
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _polygon_corners(numbers: list[float]) -> tuple[float, float, float, float]:
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _shortened(line: str) -> str:
    text = line.strip()
    return text if len(text) <= 60 else f"{text[:60]}..."
