"""The columns of csv files with boxes: they are recognized by a header, or by the first rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from flowdet.data.custom.formats.base import to_number
from flowdet.data.image_files import image_suffixes

__all__ = ["CORNERS", "Table", "find_table", "has_image_suffix", "table_rows"]

CORNERS = ("x1", "y1", "x2", "y2")
_DELIMITERS = (",", ";", "\t", "|")
# the first part of a file, in bytes and rows, decides about its columns
_HEAD_BYTES, _SAMPLE = 1 << 16, 50
# names of columns in a header, in lower case without other characters than letters and digits;
# the first one that a header has is used
_NAMES = {
    "image": (
        "path", "imagepath", "imgpath", "filepath", "filename", "imagename", "imgname",
        "imagefilename", "imagefile", "file", "image", "img", "imageid", "imgid", "imageuri",
    ),
    "x1": ("xmin", "x0", "x1", "left", "xtl", "minx", "bboxx1", "bboxxmin"),
    "y1": ("ymin", "y0", "y1", "top", "ytl", "miny", "bboxy1", "bboxymin"),
    "x2": ("xmax", "x2", "right", "xbr", "maxx", "bboxx2", "bboxxmax"),
    "y2": ("ymax", "y2", "bottom", "ybr", "maxy", "bboxy2", "bboxymax"),
    "label": (
        "class", "classname", "label", "labelname", "category", "categoryname", "tag", "object",
        "name", "classid", "labelid", "categoryid",
    ),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "split": ("split", "set", "subset", "mluse", "usage", "partition", "phase", "dataset"),
}  # fmt: skip
# columns of boxes in other forms, which are not read
_OTHER_BOXES = {"x", "y", "xcenter", "centerx", "cx", "bbox", "box", "boundingbox", "x3", "bboxx"}
# columns of files without header by their number: keras-retinanet, TensorFlow, AutoML (all four
# vertices of the box, or two opposite ones) with and without split
_FORMS: dict[int, tuple[str, ...]] = {
    6: ("image", "x1", "y1", "x2", "y2", "label"),
    8: ("image", "width", "height", "label", "x1", "y1", "x2", "y2"),
    10: ("image", "label", "x1", "y1", "", "", "x2", "y2", "", ""),
    11: ("split", "image", "label", "x1", "y1", "", "", "x2", "y2", "", ""),
}
_NORMALIZED_FORMS = (10, 11)


@dataclass(frozen=True)
class Table:
    """The columns of a file.

    Attributes:
        delimiter: separates the fields of a row.
        columns: index of the columns "image", "x1", "y1", "x2", "y2", "label", and, if the file has
            them, "width", "height", "split".
        num_fields: the number of fields of a row.
        has_header: whether the first row has the names of the columns.
        is_normalized: whether the format defines coordinates as fractions of the image.
    """

    delimiter: str
    columns: dict[str, int] = field(hash=False)
    num_fields: int
    has_header: bool
    is_normalized: bool = False

    @property
    def missing(self) -> list[str]:
        """The required columns that the file lacks."""
        return [key for key in ("image", *CORNERS, "label") if key not in self.columns]

    @property
    def lists_images(self) -> bool:
        """Whether the file has images, but no boxes and classes."""
        return self.missing == [*CORNERS, "label"] and len(self.columns) == self.num_fields


def find_table(path: Path) -> Table | None:
    """Returns the columns of a file; None if it does not list images with boxes.

    Columns may be missing if the file has a header that names images.
    """
    with open(path, "rb") as stream:
        data = stream.read(_HEAD_BYTES)
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    lines = text.splitlines(keepends=True)
    # the last line may be cut off
    head = "".join(lines[:-1] if len(data) == _HEAD_BYTES and len(lines) > 1 else lines)
    tables = [_table(head, delimiter) for delimiter in _DELIMITERS]
    known = [table for table in tables if table]
    return min(known, key=lambda table: len(table.missing)) if known else None


def table_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line and the fields, without blanks around them, of every row with content.

    Lines that start with "# " before the first row, and Excel's line "sep=;", are left out.

    Raises:
        ValueError: the quotes are not closed, or a field is too long. The message starts with the
            line: "<line>: ".
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    line, is_start = 1, True
    try:
        for row in reader:
            if any("\n" in value or "\r" in value for value in row):
                raise ValueError(f"{line}: a field has a line break: close its quotes")
            row = [value.strip() for value in row]
            is_start = is_start and _is_comment(row)
            if any(row) and not is_start:
                yield reader.line_num, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{line}: the row is not csv: {error}") from error


def has_image_suffix(name: str) -> bool:
    return Path(name.replace("\\", "/")).suffix.lower() in image_suffixes()


def _is_comment(row: Sequence[str]) -> bool:
    return "".join(row[:1]).startswith(("# ", "sep=")) and not any(map(has_image_suffix, row))


def _table(head: str, delimiter: str) -> Table | None:
    rows: list[list[str]] = []
    try:
        rows.extend(row for _, row in islice(table_rows(head, delimiter), _SAMPLE))
    # the rows before the error decide; it is reported when the file is read
    except ValueError:
        pass
    if not rows:
        return None
    columns = _header_columns(rows[0])
    if columns:
        return Table(delimiter, columns, len(rows[0]), True)
    return _without_header(rows, delimiter)


def _header_columns(row: Sequence[str]) -> dict[str, int] | None:
    """Returns the columns that a header names; None if the row is no header of boxes or images."""
    names = [re.sub("[^a-z0-9]", "", value.lower()) for value in row]
    aliases = dict(_NAMES)
    if "x0" in names:
        aliases |= {"x2": ("x1",), "y2": ("y1",)}
    columns = {
        key: names.index(next(name for name in options if name in names))
        for key, options in aliases.items()
        if not {*options}.isdisjoint(names)
    }
    if "x3" in names:
        # the four vertices of a quadrilateral
        columns = {key: index for key, index in columns.items() if key not in CORNERS}
    has_boxes = len({*CORNERS} & {*columns}) >= 2 or not _OTHER_BOXES.isdisjoint(names)
    only_images = {*columns} <= {"image", "width", "height"} and len(columns) == len(names)
    return columns if "image" in columns and (has_boxes or only_images) else None


def _without_header(rows: Sequence[Sequence[str]], delimiter: str) -> Table | None:
    """Returns the columns of the form that most of the rows have; None for none."""
    if all(len(row) == 1 and has_image_suffix(row[0]) for row in rows):
        return Table(delimiter, {"image": 0}, 1, False)
    for number, names in _FORMS.items():
        columns = {name: index for index, name in enumerate(names) if name}
        matches = sum(len(row) == number and _matches(row, columns) for row in rows)
        if 2 * matches > len(rows):
            return Table(delimiter, columns, number, False, number in _NORMALIZED_FORMS)
    return None


def _matches(row: Sequence[str], columns: dict[str, int]) -> bool:
    """Whether a row has an image, and numbers (or nothing) as corners and size."""
    numbers = [row[columns[key]] for key in ("width", "height", *CORNERS) if key in columns]
    is_box = all(to_number(value) is not None for value in numbers)
    return has_image_suffix(row[columns["image"]]) and (is_box or not any(numbers))
