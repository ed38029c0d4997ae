"""Reads a split of a YOLO or darknet dataset: its images, and the label file of each image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import EncodingError, read_lines, to_number
from flowdet.data.custom.formats.listed_images import image_ids
from flowdet.data.custom.formats.yolo.classes import YOLOClasses, read_classes
from flowdet.data.custom.formats.yolo.files import (
    YOLOSource,
    files_in,
    is_image,
)
from flowdet.data.custom.formats.yolo.labels import LabelFinder
from flowdet.data.custom.formats.yolo.rows import (
    KEYPOINTS,
    POLYGON,
    SCORE,
    Row,
    parse_row,
)
from flowdet.data.custom.formats.yolo.search import pair_folders
from flowdet.data.custom.image_finder import ImageFinder, walk
from flowdet.data.custom.image_headers import read_headers
from flowdet.data.custom.raw import RawImage, RawObject, RawSplit

__all__ = ["read_split"]

# kind and text of the repair of rows that are not plain boxes
_REPAIRS = {
    POLYGON: ("box of a polygon", "the bounding boxes of {} polygons are used"),
    KEYPOINTS: ("keypoints left out", "the keypoints of {} objects are left out"),
    SCORE: ("confidence left out", "{} rows have a 6th value, a confidence, which is left out"),
}


def read_split(source: YOLOSource, findings: Findings) -> RawSplit:
    """Reads the images, objects and classes of a split; arguments as `DatasetFormat.read`."""
    for kind, where, text in source.notes:
        findings.repair(kind, where, text)
    return _Reader(source, findings).read()


class _Reader:
    """Reads a split.

    Args:
        source: the files of the split.
        findings: collects problems and repairs.
    """

    def __init__(self, source: YOLOSource, findings: Findings):
        self._source, self._findings = source, findings
        self._labels = LabelFinder(source, findings)
        self._keypoint_values = _keypoint_values(source)

    def read(self) -> RawSplit:
        source = self._source
        paths = list(dict.fromkeys(self._image_paths()))
        labels = self._find_labels(paths)
        annotated = any(labels.values()) or source.split != "test"
        unlabeled = bool(paths) and annotated and not any(labels.values())
        if unlabeled:
            self._report_unlabeled(paths)
        classes = read_classes(source, self._labels.folders, self._findings)
        if classes is None or unlabeled:
            return RawSplit([], source.path, readable=False)
        images = self._images(labels, annotated, classes)
        return RawSplit(list(images), source.path, classes.categories(), classes.source)

    def _find_labels(self, paths: Sequence[Path]) -> dict[Path, Path | None]:
        """Returns the label files of the images, in the usual folders or in similar ones."""
        labels = self._labels.find(paths)
        if any(labels.values()) or not paths:
            return labels
        root = self._source.folder
        try:
            _, label_folders = pair_folders(root, list(walk(root)))
        # several folders have similar labels
        except ValueError:
            return labels
        used = {path.parent for path in paths} & label_folders.keys()
        for folder in sorted(used):
            text = f"the labels of its images are read from {label_folders[folder]}"
            self._findings.repair("folder name adapted", folder, text)
        if used:
            source = replace(self._source, label_folders=label_folders)
            self._labels = LabelFinder(source, self._findings)
        return self._labels.find(paths) if used else labels

    def _images(
        self, labels: dict[Path, Path | None], annotated: bool, classes: YOLOClasses
    ) -> Iterator[RawImage]:
        """Yields the images with their objects; reports images that cannot be read."""
        headers = read_headers(list(labels))
        ids = image_ids(list(labels), self._source.folder)
        for (path, label), header, image_id in zip(labels.items(), headers, ids, strict=True):
            if header.size is None:
                self._findings.problem("unreadable image", path, header.error)
                continue
            image = RawImage(path, image_id, str(label or path), header.size, True, annotated)
            if label:
                image.objects = list(self._objects(label, header.size, classes))
            elif annotated:
                text = f"there is no label file {self._labels.usual(path)}: the image is background"
                self._findings.repair("image without label file", path, text)
            yield image

    def _image_paths(self) -> Iterator[Path]:
        """Yields the images of the folders and lists; an image may be in several folders."""
        for image_source in self._source.images:
            if image_source.path.is_dir():
                files = walk if image_source.recursive else files_in
                yield from filter(is_image, files(image_source.path))
            elif is_image(image_source.path):
                yield image_source.path
            else:
                yield from self._listed_images(image_source.path)

    def _listed_images(self, listing: Path) -> Iterator[Path]:
        try:
            lines = read_lines(listing)
        except EncodingError as error:
            where = f"{listing}:{error.line}"
            self._findings.problem("unreadable list", where, str(error), fatal=True)
            return
        folder = self._source.folder
        finder = ImageFinder((listing.parent, folder), self._findings, folder, self._source.split)
        numbered = [(x.strip(), f"{listing}:{i}") for i, x in enumerate(lines, 1) if x.strip()]
        names = _with_suffixes(numbered, finder)
        paths = finder.find(names)
        used: set[str] = set()
        for (name, where), path in zip(names, paths, strict=True):
            real = path and os.path.normpath(path)
            if real in used:
                self._findings.problem("image listed twice", where, f"{name} is listed twice")
            elif real:
                used.add(real)
                yield Path(real)

    def _report_unlabeled(self, paths: Sequence[Path]) -> None:
        text = f"no image has a label file, such as {self._labels.usual(paths[0])} for {paths[0]}"
        where = ", ".join(str(x.path) for x in self._source.images[:3])
        self._findings.problem("missing annotations", where, text, fatal=True)

    def _objects(
        self, label: Path, size: tuple[int, int], classes: YOLOClasses
    ) -> Iterator[RawObject]:
        """Yields the objects of a label file; reports rows that are not objects."""
        rows = list(self._rows(label, classes))
        self._report_kinds(label, rows)
        height, width = size
        for number, row in rows:
            x1, y1, x2, y2 = row.corners
            corners = (x1 * width, y1 * height, x2 * width, y2 * height)
            yield RawObject(classes.names[row.class_id], corners, f"{label}:{number}")

    def _rows(self, label: Path, classes: YOLOClasses) -> Iterator[tuple[int, Row]]:
        """Yields the rows with their line numbers."""
        try:
            lines = read_lines(label)
        except EncodingError as error:
            where = f"{label}:{error.line}"
            return self._findings.problem("unreadable annotation", where, str(error))
        for number, line in enumerate(lines, 1):
            where = f"{label}:{number}"
            if not line.strip():
                continue
            try:
                row = parse_row(line, self._keypoint_values)
            except ValueError as error:
                self._findings.problem("unreadable annotation", where, str(error))
                continue
            if row.class_id in classes.names:
                yield number, row
            else:
                text = f"class {row.class_id} is unknown; the classes in {classes.source} are "
                self._findings.problem("unknown class", where, text + classes.listed())
        return None

    def _report_kinds(self, label: Path, rows: Sequence[tuple[int, Row]]) -> None:
        for kind, (title, text) in _REPAIRS.items():
            numbers = [number for number, row in rows if row.kind == kind]
            if numbers:
                self._findings.repair(title, f"{label}:{numbers[0]}", text.format(len(numbers)))


def _with_suffixes(names: list[tuple[str, str]], finder: ImageFinder) -> list[tuple[str, str]]:
    """Adds the suffixes of the images to the names of a list without suffixes."""
    if all(is_image(Path(name)) for name, _ in names):
        return names
    suffixes: dict[str, set[str]] = defaultdict(set)
    for path in finder.images:
        suffixes[path.stem].add(path.suffix)
    completed = []
    for name, where in names:
        known = suffixes.get(name.replace("\\", "/").rpartition("/")[2], set())
        is_short = not is_image(Path(name)) and len(known) == 1
        completed.append((name + "".join(known) if is_short else name, where))
    return completed


def _keypoint_values(source: YOLOSource) -> int:
    """Returns the number of values of the keypoints of an object; 0 if there are no keypoints."""
    shape = source.data.get("kpt_shape") if source.data else None
    numbers = [to_number(str(x)) for x in shape] if isinstance(shape, list) else []
    return int(numbers[0] * numbers[1]) if len(numbers) == 2 and all(numbers) else 0
