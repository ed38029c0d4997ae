"""CVAT for images: one xml file for all images, with the subset of each image.

CVAT writes corners as floats in absolute pixels, counted from 0 at the upper left corner of the
image, so that the box of a whole image is 0, 0, width, height.
"""

from __future__ import annotations

import codecs
import html
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    DatasetFormat,
    split_of,
    to_number,
)
from flowdet.data.custom.formats.listed_images import (
    assign_splits,
    file_per_split,
    image_folders,
    image_ids,
    report_unlisted,
    splits_in,
)
from flowdet.data.custom.image_finder import ImageFinder
from flowdet.data.custom.raw import Category, RawImage, RawObject, RawSplit
from flowdet.data.xml_reader import LINE, parse_xml

__all__ = ["CVAT", "CVATSource"]

_FILE = "annotations.xml"
# the beginning of a file, and its root
_HEAD_BYTES, _ROOT = 4096, re.compile(rb"<annotations[\s/>]")
# the tag of an image up to the next tag, and its attributes
_IMAGE_TAG = re.compile(r"<image\s([^<]*)")
_ATTRIBUTE = re.compile(r"""([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")

_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class CVATSource:
    """The file of a split.

    Attributes:
        path: the xml file.
        folder: the folder of the dataset.
        split: the split, or `ALL`.
        has_several: whether the file also has the images of other splits.
        files: all xml files of the dataset.
    """

    path: Path
    folder: Path
    split: str
    has_several: bool
    files: tuple[Path, ...]


@FORMAT_REGISTRY.register()
class CVAT(DatasetFormat):
    layout = "annotations.xml of CVAT for images next to images/"

    def find(self, folder: Path) -> dict[str, CVATSource] | None:
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
        files = [
            path / _FILE for path in (folder, *folders) if path == folder or split_of(path.name)
        ]
        return _sources([file for file in files if _may_be_cvat(file)], folder)

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, CVATSource] | None:
        xmls = (file for file in files if file.suffix.lower() == ".xml")
        return _sources([file for file in xmls if _may_be_cvat(file)], folder)

    def read(self, source: CVATSource, findings: Findings) -> RawSplit:
        root = _parse(source.path, findings)
        if root is None:
            return RawSplit([], source.path, readable=False)
        images = _Reader(source, root, findings).images()
        return RawSplit(images, source.path, _categories(root), str(source.path))


def _may_be_cvat(file: Path) -> bool:
    if not file.is_file():
        return False
    with open(file, "rb") as stream:
        return bool(_ROOT.search(stream.read(_HEAD_BYTES).replace(b"\0", b"")))


def _sources(files: Sequence[Path], folder: Path) -> dict[str, CVATSource] | None:
    """Returns the splits: by the subsets of the images in a single file, else by file names."""
    if not files:
        return None
    if len(files) == 1:
        entries = _listed_images(files[0])
        splits = splits_in(assign_splits(*_labels_and_names(entries), folder))
        if splits != [ALL]:
            return {x: CVATSource(files[0], folder, x, True, tuple(files)) for x in splits}
    return {
        split: CVATSource(file, folder, split, False, tuple(files))
        for split, file in file_per_split(files, folder, "CVAT .xml").items()
    }


def _listed_images(file: Path) -> list[dict[str, str]]:
    """Returns the attributes of all images, without parsing the file; errors are ignored."""
    data = file.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8", errors="replace")
    return [
        {key: html.unescape(a or b) for key, a, b in _ATTRIBUTE.findall(tag)}
        for tag in _IMAGE_TAG.findall(text)
    ]


def _labels_and_names(entries: Sequence[dict[str, str] | ET.Element]) -> tuple[list, list]:
    labels = [entry.get("subset") or "" for entry in entries]
    return labels, [entry.get("name") or "" for entry in entries]


def _parse(path: Path, findings: Findings) -> ET.Element | None:
    """Returns the root of a file; None after reporting that it is not CVAT for images."""
    try:
        root = parse_xml(path)
    except ValueError as error:
        # the message is "<path>:<line>: <text>"
        line, _, text = str(error).removeprefix(f"{path}:").partition(": ")
        return findings.problem("unreadable annotation", f"{path}:{line}", text, fatal=True)
    track = root.find("track")
    if track is not None:
        text = "the file has the tracks of a video: export it as 'CVAT for images', with its images"
        where = f"{path}:{track.get(LINE)}"
        return findings.problem("unreadable annotation", where, text, fatal=True)
    return root


def _categories(root: ET.Element) -> list[Category] | None:
    """Returns the labels of the task or project in the order of the file; None for none."""
    labels = (x for x in root.iterfind("meta//labels/label") if x.find("parent") is None)
    names = dict.fromkeys(label.findtext("name") or "" for label in labels)
    return [Category(name) for name in names if name.strip()] or None


class _Reader:
    """Reads the images of a split.

    Args:
        source: the file of the split.
        root: its content.
        findings: collects problems and repairs.
    """

    def __init__(self, source: CVATSource, root: ET.Element, findings: Findings):
        self._source, self._findings = source, findings
        self._elements = root.findall("image")
        folders = image_folders(source.folder, source.path, source.split)
        self._finder = ImageFinder(folders, findings, source.folder, source.split)

    def images(self) -> list[RawImage]:
        """Returns the images of the split with their objects."""
        elements = [element for element in self._of_split() if self._has_name(element)]
        names = [(self._name(element), self._where(element)) for element in elements]
        paths = self._finder.find(names)
        annotated = any(len(element) for element in elements)
        images: dict[str, RawImage] = {}
        for element, path in zip(elements, paths, strict=True):
            key = path and os.path.realpath(path)
            if key in images:
                text = f"{path} is listed twice, first in {images[key].where}"
                self._problem("image listed twice", element, text)
            elif path:
                images[key] = RawImage(
                    path, "", self._where(element), self._size(element), annotated=annotated
                )
                images[key].objects = [x for x in map(self._object, element) if x]
        self._report_unlisted([image.path for image in images.values()])
        ids = image_ids([image.path for image in images.values()], self._source.folder)
        for image, image_id in zip(images.values(), ids, strict=True):
            image.image_id = image_id
        return list(images.values())

    def _of_split(self) -> list[ET.Element]:
        """Returns the images of the split; reports images that belong to no split."""
        if not self._source.has_several:
            return self._elements
        labels, names = _labels_and_names(self._elements)
        splits = assign_splits(labels, names, self._source.folder)
        for element, split, label in zip(self._elements, splits, labels, strict=True):
            if split is None:
                text = f"image {element.get('name')} has the subset {label!r}: name its subset "
                text += "Train, Validation or Test, as those of other images"
                self._problem("image without split", element, text)
        pairs = zip(self._elements, splits, strict=True)
        return [element for element, split in pairs if split == self._source.split]

    def _report_unlisted(self, paths: list[Path]) -> None:
        others = [file for file in self._source.files if file != self._source.path]
        entries = [entry for file in others for entry in _listed_images(file)]
        names = [entry.get("name") or "" for entry in (*self._elements, *entries)]
        files = " and ".join(map(str, self._source.files))
        report_unlisted(self._finder, paths, names, files, self._findings)

    def _has_name(self, element: ET.Element) -> bool:
        if (element.get("name") or "").strip():
            return True
        self._problem("unreadable annotation", element, "the image has no name")
        return False

    def _name(self, element: ET.Element) -> str:
        """Returns the name of an image, with the folder of its subset if the file is there."""
        name, subset = element.get("name"), element.get("subset")
        in_subset = f"{subset}/{name}"
        if subset and any(os.path.isfile(x / in_subset) for x in self._finder.folders):
            return in_subset
        return name

    def _size(self, element: ET.Element) -> tuple[int, int] | None:
        """Returns height and width; None after reporting that they are not positive numbers."""
        height, width = (to_number(element.get(key) or "") for key in ("height", "width"))
        if height and width and min(height, width) >= 1:
            return int(height), int(width)
        text = f"height is {element.get('height')!r} and width is {element.get('width')!r}"
        self._findings.repair("image size missing", self._where(element), text)
        return None

    def _object(self, shape: ET.Element) -> RawObject | None:
        """Returns the object of a shape; None after reporting that it has no box."""
        label, where = shape.get("label") or "", self._where(shape)
        if shape.tag == "tag":
            text = f"the tag {label!r} belongs to the whole image: it is left out"
            return self._findings.repair("tag of an image", where, text)
        if shape.get("outside") == "1":
            text = f"the {label!r} is outside of the view: it is left out"
            return self._findings.repair("object outside of the view", where, text)
        if not label.strip():
            return self._problem("unreadable annotation", shape, f"<{shape.tag}> has no label")
        read = {"box": self._box, "polygon": self._polygon, "ellipse": self._ellipse}
        if shape.tag not in read:
            text = f"the {label!r} is a <{shape.tag}>, which is not read: draw a rectangle or a "
            return self._problem("unreadable annotation", shape, text + "polygon, or remove it")
        corners = read[shape.tag](shape)
        return corners and RawObject(label, corners, where)

    def _box(self, shape: ET.Element) -> _Corners | None:
        values, angle = self._numbers(shape, "xtl", "ytl", "xbr", "ybr"), self._angle(shape)
        if not values or angle is None:
            return None
        x1, y1, x2, y2 = values
        width, height = x2 - x1, y2 - y1
        # corners in the wrong order are reported when the boxes are checked
        if not angle or min(width, height) < 0:
            return values
        self._report_outline(shape, f"box, which is rotated by {math.degrees(angle):g} degrees,")
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        half = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
        return _around((x1 + x2) / 2, (y1 + y2) / 2, *half)

    def _ellipse(self, shape: ET.Element) -> _Corners | None:
        values, angle = self._numbers(shape, "cx", "cy", "rx", "ry"), self._angle(shape)
        if not values or angle is None:
            return None
        self._report_outline(shape, "ellipse")
        x, y, rx, ry = values
        cos, sin = math.cos(angle), math.sin(angle)
        return _around(x, y, math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos))

    def _polygon(self, shape: ET.Element) -> _Corners | None:
        text = shape.get("points") or ""
        points = [[to_number(x) for x in pair.split(",")] for pair in text.split(";")]
        if len(points) < 3 or any(len(point) != 2 or None in point for point in points):
            text = f"the points of the polygon are {text[:80]!r}; give at least 3 as x,y;x,y;x,y"
            return self._problem("unreadable annotation", shape, text)
        self._report_outline(shape, "polygon")
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def _angle(self, shape: ET.Element) -> float | None:
        """Returns the rotation in radians; None after reporting that it is not a number."""
        values = self._numbers(shape, "rotation") if shape.get("rotation") else (0.0,)
        return values and math.radians(values[0])

    def _numbers(self, shape: ET.Element, *keys: str) -> tuple[float, ...] | None:
        """Returns attributes of a shape; None after reporting one that is not a number."""
        values = tuple(to_number(shape.get(key) or "") for key in keys)
        if None not in values:
            return values
        key = keys[values.index(None)]
        value = f"is {shape.get(key)!r}, not a number" if shape.get(key) else "is missing"
        return self._problem("unreadable annotation", shape, f"{key} of <{shape.tag}> {value}")

    def _report_outline(self, shape: ET.Element, kind: str) -> None:
        text = f"the bounding box of the {kind} is used"
        self._findings.repair("box of a polygon", self._where(shape), text)

    def _where(self, element: ET.Element) -> str:
        return f"{self._source.path}:{element.get(LINE)}"

    def _problem(self, kind: str, element: ET.Element, text: str) -> None:
        return self._findings.problem(kind, self._where(element), text)


def _around(x: float, y: float, half_width: float, half_height: float) -> _Corners:
    return x - half_width, y - half_height, x + half_width, y + half_height
