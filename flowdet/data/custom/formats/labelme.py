"""LabelMe: one json file per image, also as X-AnyLabeling writes it.

LabelMe stores points as floats in absolute pixels, counted from 0 at the upper left corner of the
image, so that the box of a whole image is 0, 0, width, height.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    DatasetFormat,
    is_number,
    parents,
    read_json,
    split_of_path,
)
from flowdet.data.custom.formats.listed_images import base_name, image_ids
from flowdet.data.custom.image_finder import ImageFinder
from flowdet.data.custom.raw import RawImage, RawObject, RawSplit
from flowdet.data.image_files import image_suffixes

__all__ = ["LabelMe", "LabelMeSource"]

# The first part of a file has one of the keys of LabelMe. The rest may be an embedded image.
_HEAD_BYTES = 1 << 16
_KEYS = re.compile(rb'"(shapes|imagePath|imageData|lineColor|fillColor|imageHeight)"\s*:')
_COCO_KEYS = re.compile(rb'"(images|annotations|categories|assets|asset)"\s*:')
# the number of files of a folder that decide about its format
_SAMPLE = 5
# shapes whose bounding box is the box of the object; "mask" has the corners of its box as points
_OUTLINES = ("polygon", "rotation", "oriented_rectangle", "quadrilateral", "ellipse")

_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelMeSource:
    """The files of a split.

    Attributes:
        path: the first folder of the split.
        folder: the folder of the dataset.
        files: the json files; none in a test split without annotations.
        images: the images of the split, perhaps among others.
        stems: the names of all json files of the dataset, without suffix.
    """

    path: Path
    folder: Path
    files: tuple[Path, ...]
    images: tuple[Path, ...]
    stems: frozenset[str]


@FORMAT_REGISTRY.register()
class LabelMe(DatasetFormat):
    layout = "a .json file for every image"

    def find(self, folder: Path) -> None:
        """Returns None: the files of LabelMe have no usual names, so that `search` finds them."""

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, LabelMeSource] | None:
        by_split = _annotations_by_split(folder, files)
        if not by_split:
            return None
        stems = frozenset(file.stem for group in by_split.values() for file in group)
        pictures: dict[str | None, list[Path]] = {}
        for file in files:
            if file.suffix.lower() in image_suffixes():
                pictures.setdefault(split_of_path(file.parent, folder), []).append(file)
        every = [file for group in pictures.values() for file in group]
        sources = {
            split or ALL: LabelMeSource(
                group[0].parent,
                folder,
                tuple(group),
                # images may be in folders that are not named after a split
                tuple(pictures.get(split) or pictures.get(None, ())) if split else tuple(every),
                stems,
            )
            for split, group in by_split.items()
        }
        test = tuple(pictures.get("test", ()))
        if ALL not in sources and "test" not in sources and test:
            # for prediction
            sources["test"] = LabelMeSource(test[0].parent, folder, (), test, stems)
        return sources

    def read(self, source: LabelMeSource, findings: Findings) -> RawSplit:
        if source.files:
            images = _Reader(source, findings).images()
        else:
            ids = image_ids(source.images, source.folder)
            pairs = zip(source.images, ids, strict=True)
            images = [RawImage(path, i, str(path), annotated=False) for path, i in pairs]
        return RawSplit(images, source.path, None, f"the annotations of {source.path}")


def _annotations_by_split(folder: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Returns the files in all folders that contain LabelMe files, by the split of the folder."""
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() == ".json":
            by_folder.setdefault(file.parent, []).append(file)
    by_split: dict[str | None, list[Path]] = {}
    for parent, group in by_folder.items():
        if any(map(_may_be_labelme, group[:_SAMPLE])):
            by_split.setdefault(split_of_path(parent, folder), []).extend(group)
    if None in by_split and len(by_split) > 1:
        raise ValueError(
            f"{by_split[None][0].parent} contains LabelMe files, but its name is not that of a "
            "split (train, val or test), as those of other folders: rename the folder or remove it"
        )
    return by_split


def _may_be_labelme(file: Path) -> bool:
    with open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES).replace(b"\0", b"")
    return bool(_KEYS.search(head)) and not _COCO_KEYS.search(head)


class _Reader:
    """Reads the images of a split that has annotations.

    Args:
        source: the files of the split.
        findings: collects problems and repairs.
    """

    def __init__(self, source: LabelMeSource, findings: Findings):
        self._source, self._findings = source, findings
        self._folders = (*parents(source.files), *parents(source.images))
        self._by_stem: dict[str, list[Path]] = {}
        for path in source.images:
            self._by_stem.setdefault(path.stem, []).append(path)

    def images(self) -> list[RawImage]:
        """Returns the images with their objects."""
        contents = {file: self._content(file) for file in self._source.files}
        contents = {file: content for file, content in contents.items() if content is not None}
        images: dict[str, RawImage] = {}
        for file, path in self._image_paths(contents).items():
            key = os.path.realpath(path)
            if key in images:
                text = f"{images[key].where} is also an annotation of {path}: keep one of them"
                self._findings.problem("image listed twice", file, text)
                continue
            size = self._size(contents[file], file)
            objects = self._objects(contents[file]["shapes"], file)
            images[key] = RawImage(path, "", str(file), size, objects=objects)
        self._report_unannotated(images)
        ids = image_ids([image.path for image in images.values()], self._source.folder)
        for image, image_id in zip(images.values(), ids, strict=True):
            image.image_id = image_id
        return list(images.values())

    def _content(self, file: Path) -> dict | None:
        """Returns what is read of a file; None after reporting that it is not a LabelMe file."""
        content = read_json(file, self._findings)
        if content is None:
            return None
        shapes = content.get("shapes")
        if not isinstance(shapes, list):
            text = "not a LabelMe file: it has no list of `shapes`"
            return self._findings.problem("unreadable annotation", file, text)
        keys = ("imagePath", "imageHeight", "imageWidth")
        has_image = bool(content.get("imageData"))
        return {key: content.get(key) for key in keys} | {"shapes": shapes, "embedded": has_image}

    def _image_paths(self, contents: dict[Path, dict]) -> dict[Path, Path]:
        """Returns the image of each file; reports the files without one."""
        paths = {file: self._image_beside(file, x["imagePath"]) for file, x in contents.items()}
        rest = [file for file, path in paths.items() if path is None]
        # the images of these files are not in their folders
        attempts = Findings(self._source.folder, "list")
        names = [(_name(contents[file]["imagePath"]) or file.stem, str(file)) for file in rest]
        finder = ImageFinder(self._folders, attempts, self._source.folder)
        for file, path in zip(rest, finder.find(names, rest), strict=True):
            paths[file] = path or self._same_stem(file, self._by_stem.get(file.stem, []))
        for repair in attempts.repairs:
            self._findings.repair(repair.kind, repair.where, repair.text)
        for problem in attempts.problems:
            file = Path(problem.where)
            if paths[file] is None:
                embedded = contents[file]["embedded"]
                self._report_missing(file, problem.text, embedded)
        return {file: path for file, path in paths.items() if path is not None}

    def _image_beside(self, file: Path, image_path: object) -> Path | None:
        """Returns the image that `imagePath` names relative to the file, or the image in the folder
        of the file with the last part of this name, or with the name of the file."""
        name = _name(image_path)
        for option in dict.fromkeys((name, name.replace("\\", "/"), base_name(name))):
            path = Path(os.path.normpath(os.path.join(file.parent, option)))
            if option and os.path.isfile(path):
                if option != name:
                    self._report_adapted(file, name, path)
                return path
        stems = self._by_stem.get(file.stem, [])
        return self._same_stem(file, [path for path in stems if path.parent == file.parent], name)

    def _same_stem(self, file: Path, paths: list[Path], name: str = "") -> Path | None:
        if len(paths) != 1:
            return None
        self._report_adapted(file, name or "imagePath", paths[0])
        return paths[0]

    def _report_adapted(self, file: Path, name: str, path: Path) -> None:
        self._findings.repair("file name adapted", file, f"{name} is read as {path}")

    def _report_missing(self, file: Path, text: str, embedded: bool) -> None:
        if embedded:
            text += ". The file has a copy of the image in imageData, which is not read: write the "
            text += "images to files, e.g. with LabelMe's labelme_export_json"
        self._findings.problem("missing image", file, text)

    def _report_unannotated(self, images: dict[str, RawImage]) -> None:
        """Reports images without a file, in the folders of the files and of their images."""
        folders = {*parents(self._source.files), *parents(x.path for x in images.values())}
        for path in self._source.images:
            if path.parent not in folders or path.stem in self._source.stems:
                continue
            if os.path.realpath(path) not in images:
                text = f"there is no {path.stem}.json; an image without objects needs a .json "
                self._findings.problem("image without annotation", path, text + "file too")

    def _size(self, content: dict, file: Path) -> tuple[int, int] | None:
        """Returns height and width; None after reporting that they are not positive numbers."""
        size = (content["imageHeight"], content["imageWidth"])
        if all(is_number(x) and x >= 1 for x in size):
            return int(size[0]), int(size[1])
        text = f"imageHeight is {size[0]!r} and imageWidth is {size[1]!r}"
        self._findings.repair("image size missing", file, text)
        return None

    def _objects(self, shapes: list, file: Path) -> list[RawObject]:
        """Returns the objects of an image. Outlines of one label and group are one object."""
        objects: list[RawObject] = []
        groups: dict[tuple[str, int | str], RawObject] = {}
        for number, shape in enumerate(shapes, 1):
            shape = shape if isinstance(shape, dict) else {}
            where = f"{file}, shape {number} ({shape.get('label')})"
            label, corners = self._label(shape, where), self._corners(shape, where)
            if label is None or corners is None:
                continue
            group = shape.get("group_id") if shape.get("shape_type") != "rectangle" else None
            key = (label, group) if isinstance(group, (int, str)) else None
            if key in groups:
                groups[key].corners = _union(groups[key].corners, corners)
                text = f"the outlines of group {group} are read as one {label!r}"
                self._findings.repair("box of a group", where, text)
                continue
            objects.append(RawObject(label, corners, where))
            if key:
                groups[key] = objects[-1]
        return objects

    def _label(self, shape: dict, where: str) -> str | None:
        label = shape.get("label")
        if isinstance(label, str) and label.strip():
            return label
        text = f"label is {label!r}: give the name of a class as text"
        return self._problem(where, text)

    def _corners(self, shape: dict, where: str) -> _Corners | None:
        """Returns the box of a shape; None after reporting that it has none."""
        # old versions write polygons without a type
        kind, points = shape.get("shape_type") or "polygon", shape.get("points")
        if kind not in (*_OUTLINES, "rectangle", "circle", "mask"):
            text = f"the shape is a {kind}, which has no box: draw a rectangle or a polygon, or "
            return self._problem(where, text + "remove the shape")
        if not (isinstance(points, list) and points and all(map(_is_point, points))):
            text = f"the points of the {kind} are {_short(points)}; give pairs of numbers"
            return self._problem(where, text)
        needed = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)}.get(kind)
        if len(points) not in needed if needed else len(points) < 3:
            count = " or ".join(map(str, needed)) if needed else "at least 3"
            return self._problem(where, f"the {kind} has {len(points)} points, not {count}")
        corners = _bounding_box(kind, points)
        if kind != "rectangle" or any(
            x not in corners[::2] or y not in corners[1::2] for x, y in points
        ):
            text = f"the bounding box of the {kind} is used"
            self._findings.repair("box of a polygon", where, text)
        return corners

    def _problem(self, where: str, text: str) -> None:
        return self._findings.problem("unreadable annotation", where, text)


def _name(image_path: object) -> str:
    return image_path.strip() if isinstance(image_path, str) else ""


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(is_number, point))


def _bounding_box(kind: str, points: list[list[float]]) -> _Corners:
    if kind == "circle":
        # the center and a point on the circle
        (x, y), edge = points
        radius = math.dist(points[0], edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _union(a: _Corners, b: _Corners) -> _Corners:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
