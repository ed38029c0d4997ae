"""csv: one row per box, as keras-retinanet, TensorFlow's tutorials, VoTT, Roboflow and AutoML have.

Rows are "path, x1, y1, x2, y2, class" (keras-retinanet; without values for an image without
objects), the columns of AutoML, or those that a header names. Fields are separated by commas,
semicolons, tabs or "|".

Coordinates are absolute pixels counted from 0; x2 and y2 are exclusive. keras-retinanet and VoTT
define them so, and the other tools scale them by the size of the image, which is the same. AutoML
writes fractions of the image's width and height.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    DatasetFormat,
    EncodingError,
    read_text,
    split_of,
    split_of_path,
    to_number,
)
from flowdet.data.custom.formats.csv_table import (
    CORNERS,
    Table,
    find_table,
    has_image_suffix,
    table_rows,
)
from flowdet.data.custom.formats.listed_images import (
    assign_splits,
    file_per_split,
    image_folders,
    image_ids,
    splits_in,
)
from flowdet.data.custom.formats.voc import class_file, read_class_file
from flowdet.data.custom.image_finder import FilesByStem, ImageFinder
from flowdet.data.custom.image_headers import read_headers
from flowdet.data.custom.raw import Category, RawImage, RawObject, RawSplit

__all__ = ["CSV", "CSVSource"]

_SUFFIXES = (".csv", ".tsv")
# names of files with boxes, unless a file is named after a split
_USUAL = re.compile(r"(^|[_-])(annotations?|labels?|export|box(es)?|bbox(es)?)$")
_CLASS_FILES = ("classes.csv", "class_list.csv", "class.csv", "class_mapping.csv", "labels.csv")
# files of other formats
_OTHER_SUFFIXES = (".json", ".xml", ".yaml", ".yml", ".data")
# normalized coordinates may leave the image by this fraction; boxes are checked further
_MAX_NORMALIZED = 1.1

_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class CSVSource:
    """The file of a split.

    Attributes:
        path: the csv file.
        folder: the folder of the dataset.
        split: the split, or `ALL`.
        has_several: whether the file also has the images of other splits.
        table: the columns of the file.
        class_file: the file with class names and ids, or with a class name per line; None for none.
    """

    path: Path
    folder: Path
    split: str
    has_several: bool
    table: Table
    class_file: Path | None = None


class _Row(NamedTuple):
    """A row: its line, and the texts in its columns; "" for columns that the file lacks."""

    line: int
    image: str
    label: str
    corners: tuple[str, str, str, str]
    size: tuple[str, str]
    split: str

    @property
    def has_box(self) -> bool:
        return any(self.corners) or bool(self.label)


@dataclass
class _Image:
    """The rows of an image, and the line of its first row."""

    line: int
    size: tuple[str, str]
    rows: list[_Row] = field(default_factory=list)


@FORMAT_REGISTRY.register()
class CSV(DatasetFormat):
    layout = "train.csv and val.csv with rows path,x1,y1,x2,y2,class"

    def find(self, folder: Path) -> dict[str, CSVSource] | None:
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
        places = (
            path
            for path in (folder, *folders)
            if path == folder
            or split_of(path.name)
            or path.name.lower() in ("annotations", "labels", "data", "vott-csv-export")
        )
        files = (file for path in places for file in sorted(path.iterdir()))
        return _sources([x for x in files if _is_csv(x) and _has_usual_name(x)], folder)

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, CSVSource] | None:
        csv_files = [file for file in files if _is_csv(file)]
        others = any(file.suffix.lower() in _OTHER_SUFFIXES for file in files)
        # a file with missing columns is read to report them, but not instead of another format
        return _sources(csv_files, folder, incomplete=not others)

    def read(self, source: CSVSource, findings: Findings) -> RawSplit:
        classes, rows = _classes(source.class_file, findings), _rows(source, findings)
        if rows is None:
            return RawSplit([], source.path, readable=False)
        class_source = str(source.class_file or f"the annotations of {source.path}")
        images = _Reader(source, rows, classes, findings).images()
        return RawSplit(images, source.path, classes, class_source)


def _is_csv(path: Path) -> bool:
    is_hidden = path.name.startswith(".")
    return path.suffix.lower() in _SUFFIXES and not is_hidden and path.is_file()


def _has_usual_name(path: Path) -> bool:
    return split_of(path.stem) is not None or bool(_USUAL.search(path.stem.lower()))


def _sources(
    files: Sequence[Path], folder: Path, incomplete: bool = False
) -> dict[str, CSVSource] | None:
    """Returns the splits: by a column of a single file, else by the names of files and folders.

    Args:
        files: csv files, also those without boxes.
        folder: the folder of the dataset.
        incomplete: whether files with missing columns are used if no other file has boxes.
    """
    tables = {file: table for file in files if (table := find_table(file))}
    complete = {file: table for file, table in tables.items() if not table.missing}
    for_prediction = [file for file, table in tables.items() if table.lists_images]
    others = {file: table for file, table in tables.items() if not table.lists_images}
    boxes = complete or (others if incomplete else {})
    if len(boxes) == 1:
        ((file, table),) = boxes.items()
        splits = _splits_in_file(file, table, folder)
        if splits != [ALL]:
            return {x: _source(file, table, folder, x, True) for x in splits}
    by_split = _by_split(boxes, folder)
    if not {ALL, "train"} & {*by_split}:
        return None
    tests = [file for file in for_prediction if split_of_path(file, folder) == "test"]
    if ALL not in by_split and "test" not in by_split and len(tests) == 1:
        by_split["test"] = tests[0]
    return {x: _source(file, tables[file], folder, x, False) for x, file in by_split.items()}


def _by_split(files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Returns the file of each split. A file of all images is not used if there are others."""
    files = list(files)
    of_splits = [file for file in files if split_of_path(file, folder)]
    splits = {split_of_path(file, folder) for file in of_splits}
    is_divided = "train" in splits and len(splits) > 1
    return file_per_split(of_splits if is_divided else files, folder, "csv")


def _splits_in_file(path: Path, table: Table, folder: Path) -> list[str]:
    """Returns the splits of the images in a file; errors are reported when it is read."""
    silent = Findings(folder, "list")
    rows = _rows(_source(path, table, folder, ALL, False), silent) or []
    return splits_in(assign_splits([r.split for r in rows], [r.image for r in rows], folder))


def _source(path: Path, table: Table, folder: Path, split: str, has_several: bool) -> CSVSource:
    places = dict.fromkeys((path.parent, folder))
    options = (place / name for place in places for name in _CLASS_FILES)
    classes = next((x for x in options if x != path and x.is_file() and _is_class_list(x)), None)
    if classes is None:
        classes = next((file for place in places if (file := class_file(place))), None)
    return CSVSource(path, folder, split, has_several, table, classes)


def _is_class_list(path: Path) -> bool:
    """Whether most rows of a csv file have two fields, without images."""
    try:
        rows = [row for _, row in table_rows(read_text(path), ",")]
    # reported when the file is read
    except ValueError:
        return True
    pairs = [row for row in rows if len(row) == 2 and not any(map(has_image_suffix, row))]
    return 2 * len(pairs) > len(rows) or not rows


def _classes(path: Path | None, findings: Findings) -> list[Category] | None:
    """Reads the classes, sorted by id; None without a class file."""
    if path is None:
        return None
    if path.suffix.lower() not in _SUFFIXES:
        return read_class_file(path, findings)
    rows = _read_rows(path, ",", findings)
    if rows is None:
        return []
    # keras-retinanet has rows "name,id"; pandas may write "id,name"
    if sum(row[0].isdecimal() for _, row in rows) > sum(row[-1].isdecimal() for _, row in rows):
        rows = [(line, row[::-1]) for line, row in rows]
    classes: dict[str, Category] = {}
    for index, (line, row) in enumerate(rows):
        name, class_id = row if len(row) == 2 else ("", "")
        if index == 0 and name and not class_id.isdecimal():
            # a header
            continue
        if not (class_id.isdecimal() and name):
            text = f"{','.join(row)} is not a class: give a name and an integer as id"
            findings.problem("unreadable class file", f"{path}:{line}", text)
        elif name in classes or int(class_id) in (x.id for x in classes.values()):
            text = f"class {name!r} or its id {class_id} is listed twice"
            findings.problem("class listed twice", f"{path}:{line}", text)
        else:
            classes[name] = Category(name, int(class_id))
    if not classes:
        text = "the file contains no class: write one per line as name,id"
        findings.problem("empty class list", path, text, fatal=True)
    return sorted(classes.values(), key=lambda category: category.id)


def _read_rows(
    path: Path, delimiter: str, findings: Findings
) -> list[tuple[int, list[str]]] | None:
    """Returns line and fields of every row; None after reporting that the file is not csv."""
    try:
        return list(table_rows(read_text(path), delimiter))
    except EncodingError as error:
        line, text = error.line, str(error)
    except ValueError as error:
        # the message is "<line>: <text>"
        line, _, text = str(error).partition(": ")
    return findings.problem("unreadable annotation", f"{path}:{line}", text, fatal=True)


def _rows(source: CSVSource, findings: Findings) -> list[_Row] | None:
    """Returns the rows with the right number of fields; reports the others.

    Returns:
        None after reporting that the file cannot be read at all.
    """
    table, path = source.table, source.path
    if table.missing and not table.lists_images:
        text = f"the header has no column for {', '.join(table.missing)}: name the columns "
        text += "path, x1, y1, x2, y2, class (corners in pixels)"
        return findings.problem("unreadable annotation", f"{path}:1", text, fatal=True)
    rows = _read_rows(path, table.delimiter, findings)
    if rows is None:
        return None
    return list(_typed_rows(rows[table.has_header :], table, path, findings))


def _typed_rows(
    rows: Iterable[tuple[int, list[str]]], table: Table, path: Path, findings: Findings
) -> Iterator[_Row]:
    """Yields the rows with the right number of fields; reports the others."""
    keys = ("image", "label", "split", "height", "width", *CORNERS)
    # the last text is that of columns that the file lacks
    indices = [table.columns.get(key, -1) for key in keys]
    for line, row in rows:
        while len(row) > table.num_fields and not row[-1]:
            row.pop()
        if len(row) < table.num_fields and sum(map(bool, row)) == 1 and _has_image(row):
            # an image without objects
            row += [""] * (table.num_fields - len(row))
        if len(row) != table.num_fields:
            text = f"the row has {len(row)} fields, not {table.num_fields}: "
            text += table.delimiter.join(row)[:120]
            findings.problem("unreadable annotation", f"{path}:{line}", text)
            continue
        texts = [*row, ""]
        image, label, split, height, width, *corners = [texts[index] for index in indices]
        if image:
            yield _Row(line, image, label, tuple(corners), (height, width), split)
        else:
            findings.problem("unreadable annotation", f"{path}:{line}", "the row has no image")


def _has_image(row: list[str]) -> bool:
    return any(map(has_image_suffix, row))


class _Reader:
    """Reads the images of a split.

    Args:
        source: the file of the split.
        rows: the rows of the file.
        classes: the classes of the class file; None without one.
        findings: collects problems and repairs.
    """

    def __init__(
        self,
        source: CSVSource,
        rows: list[_Row],
        classes: list[Category] | None,
        findings: Findings,
    ):
        self._source, self._rows, self._findings = source, rows, findings
        names = {category.name for category in classes or ()}
        # the names of classes by ids, for files with ids instead of names
        self._names = {str(c.id): c.name for c in classes or () if str(c.id) not in names}
        self._folders = image_folders(source.folder, source.path, source.split)
        self._finder = ImageFinder(self._folders, findings, source.folder, source.split)

    def images(self) -> list[RawImage]:
        """Returns the images of the split with their objects."""
        listed = self._listed_images()
        names = [(self._file_name(x), self._where(image.line)) for x, image in listed.items()]
        paths = self._finder.find(names)
        annotated = any(row.has_box for image in listed.values() for row in image.rows)
        images: dict[str, RawImage] = {}
        rows: dict[str, list[_Row]] = {}
        for image, path in zip(listed.values(), paths, strict=True):
            if path:
                # two names may stand for one file
                key = os.path.realpath(path)
                where = self._where(image.line)
                size = self._size(image)
                images.setdefault(key, RawImage(path, "", where, size, annotated=annotated))
                rows.setdefault(key, []).extend(image.rows)
        self._add_objects(images, rows)
        ids = image_ids([image.path for image in images.values()], self._source.folder)
        for image, image_id in zip(images.values(), ids, strict=True):
            image.image_id = image_id
        return list(images.values())

    def _listed_images(self) -> dict[str, _Image]:
        """Returns the rows of the split by image; reports rows that belong to no split."""
        images: dict[str, _Image] = {}
        for row in self._rows_of_split():
            image = images.setdefault(row.image, _Image(row.line, row.size))
            if row.size != image.size:
                text = f"the size of {row.image} differs from that in line {image.line}"
                self._problem("unreadable annotation", row.line, text)
            elif row.has_box:
                image.rows.append(row)
        return images

    def _rows_of_split(self) -> Iterator[_Row]:
        if not self._source.has_several:
            yield from self._rows
            return
        labels, names = [r.split for r in self._rows], [r.image for r in self._rows]
        splits = assign_splits(labels, names, self._source.folder)
        first: dict[str, str | None] = {}
        for row, split in zip(self._rows, splits, strict=True):
            if split is None:
                text = f"{row.image} has the split {row.split!r}: give train, validation or test"
                self._problem("image without split", row.line, text)
            elif first.setdefault(row.image, split) != split:
                text = f"{row.image} is in {split} and in {first[row.image]}: give it one split"
                self._problem("image in two splits", row.line, text)
            elif split == self._source.split:
                yield row

    def _file_name(self, name: str) -> str:
        """Returns the name of an image file; ids without suffix become the path of the file."""
        if has_image_suffix(name):
            return name
        paths = self._by_stem.get(name)
        return str(paths[0]) if len(paths) == 1 else name

    @cached_property
    def _by_stem(self) -> FilesByStem:
        return FilesByStem(self._finder.images, self._folders)

    def _size(self, image: _Image) -> tuple[int, int] | None:
        """Returns height and width; None if the file has none, or after reporting a wrong one."""
        if not {"width", "height"} <= {*self._source.table.columns}:
            return None
        height, width = map(to_number, image.size)
        if height and width and min(height, width) >= 1:
            return int(height), int(width)
        text = f"height is {image.size[0]!r} and width is {image.size[1]!r}"
        self._findings.repair("image size missing", self._where(image.line), text)
        return None

    def _add_objects(self, images: dict[str, RawImage], rows: dict[str, list[_Row]]) -> None:
        scaled = self._is_normalized()
        if scaled:
            self._measure(images)
        for key, image in list(images.items()):
            height, width = image.size if scaled else (1, 1)
            for row in rows[key]:
                corners = self._corners(row, scaled)
                if corners is not None:
                    x1, y1, x2, y2 = corners
                    corners = (x1 * width, y1 * height, x2 * width, y2 * height)
                    name = self._names.get(row.label, row.label)
                    image.objects.append(RawObject(name, corners, self._where(row.line)))
            if rows[key] and not image.objects:
                # an image whose rows are all unusable is not background
                del images[key]

    def _corners(self, row: _Row, normalized: bool) -> _Corners | None:
        """Returns the corners of a row as in the file; None after reporting why it has no box."""
        if not row.label:
            return self._problem("unreadable annotation", row.line, "the row has no class")
        values = tuple(map(to_number, row.corners))
        if None in values:
            key, text = next((k, x) for k, x in zip(CORNERS, row.corners, strict=True) if _bad(x))
            hint = ": use a decimal point" if "," in text else ""
            text = f"{key} is {text!r}, not a number{hint}" if text else f"the row has no {key}"
            return self._problem("unreadable annotation", row.line, text)
        if normalized and max(map(abs, values)) > _MAX_NORMALIZED:
            text = f"{', '.join(row.corners)} are not fractions of the image as in other rows"
            return self._problem("unreadable annotation", row.line, text)
        return values

    def _is_normalized(self) -> bool:
        """Whether coordinates are fractions of the image: by the format, or if most of the boxes
        are within one pixel."""
        if self._source.table.is_normalized:
            return True
        boxes = [tuple(map(to_number, row.corners)) for row in self._rows if row.has_box]
        boxes = [b for b in boxes if None not in b and b[0] < b[2] and b[1] < b[3]]
        inside = sum(min(box) >= 0 and max(box) <= 1 for box in boxes)
        if 2 * inside <= len(boxes):
            return False
        text = "the coordinates are fractions of the image: they are multiplied by its size"
        self._findings.repair("normalized coordinates", self._source.path, text)
        return True

    def _measure(self, images: dict[str, RawImage]) -> None:
        """Reads the sizes of the image files; removes images that cannot be read."""
        headers = read_headers([image.path for image in images.values()])
        for (key, image), header in zip(list(images.items()), headers, strict=True):
            if header.size is None:
                self._findings.problem("unreadable image", image.path, header.error)
                del images[key]
            else:
                image.size, image.measured = header.size, True

    def _where(self, line: int) -> str:
        return f"{self._source.path}:{line}"

    def _problem(self, kind: str, line: int, text: str) -> None:
        return self._findings.problem(kind, self._where(line), text)


def _bad(text: str) -> bool:
    return to_number(text) is None
