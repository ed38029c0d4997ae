"""VoTT: one json file for all images, or one json file per image.

VoTT stores boxes as floats in absolute pixels, counted from 0 at the upper left corner of the
image: left, top, width, height. The csv files that VoTT exports are read by
`flowdet.data.custom.formats.csv_file`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    FORMAT_REGISTRY,
    DatasetFormat,
    is_number,
    parents,
    read_json,
    split_of,
)
from flowdet.data.custom.formats.listed_images import file_per_split, image_folders, image_ids
from flowdet.data.custom.image_finder import ImageFinder
from flowdet.data.custom.raw import Category, RawImage, RawObject, RawSplit

__all__ = ["VoTT", "VoTTSource"]

_FOLDER = "vott-json-export"
# The keys of an export and of the file of one image. They are in the first part of a file.
_HEAD_BYTES = 1 << 16
_EXPORT, _ASSET = re.compile(rb'"assets"\s*:\s*[{\[]'), re.compile(rb'"asset"\s*:\s*{')
# values of `type` and `state` of an asset
_VIDEO, _NOT_VISITED = 2, 0
# types of regions that have no box
_WITHOUT_BOX = ("POINT", "POLYLINE")

_Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class VoTTSource:
    """The files of a split.

    Attributes:
        path: the json file of all images, or the folder of the json files of the images.
        folder: the folder of the dataset.
        split: the split, or `ALL`.
        files: the json files.
    """

    path: Path
    folder: Path
    split: str
    files: tuple[Path, ...]


@FORMAT_REGISTRY.register()
class VoTT(DatasetFormat):
    layout = f"{_FOLDER}/*.json next to the images"

    def find(self, folder: Path) -> dict[str, VoTTSource] | None:
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
        exports = [
            path / _FOLDER for path in (folder, *folders) if path == folder or split_of(path.name)
        ]
        return _sources([file for path in exports for file in sorted(path.glob("*.json"))], folder)

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, VoTTSource] | None:
        return _sources([file for file in files if file.suffix.lower() == ".json"], folder)

    def read(self, source: VoTTSource, findings: Findings) -> RawSplit:
        contents = {file: read_json(file, findings, fatal=True) for file in source.files}
        contents = {file: content for file, content in contents.items() if content is not None}
        images = _Reader(source, contents, findings).images()
        readable = len(contents) == len(source.files)
        categories = _categories(contents, findings)
        return RawSplit(images, source.path, categories, str(source.path), readable=readable)


def _sources(files: Sequence[Path], folder: Path) -> dict[str, VoTTSource] | None:
    """Returns the splits by the names of exports; without an export, by folders of assets."""
    heads = {file: _head(file) for file in files}
    exports = [file for file, head in heads.items() if _EXPORT.search(head)]
    assets = [file for file, head in heads.items() if _ASSET.search(head)]
    paths = exports or parents(assets)
    if not paths:
        return None
    return {
        split: VoTTSource(
            path, folder, split, tuple(x for x in exports or assets if path in (x, x.parent))
        )
        for split, path in file_per_split(paths, folder, "VoTT .json").items()
    }


def _head(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(_HEAD_BYTES).replace(b"\0", b"")


def _categories(contents: dict[Path, dict], findings: Findings) -> list[Category] | None:
    """Returns the tags of the project in the order of the file; None if there are none."""
    names: dict[str, None] = {}
    for file, content in contents.items():
        for tag in _dicts(content.get("tags")):
            if _text(tag.get("name")):
                names[tag["name"]] = None
            else:
                text = f"a tag of the project has the name {_short(tag.get('name'))}, not a text"
                findings.problem("unreadable annotation", file, text)
    return [Category(name) for name in names] or None


def _dicts(value: object) -> list[dict]:
    """Returns the entries of a list or an object that are objects themselves."""
    entries = value.values() if isinstance(value, dict) else value
    return [x for x in entries if isinstance(x, dict)] if isinstance(value, (dict, list)) else []


class _Reader:
    """Reads the images of a split.

    Args:
        source: the files of the split.
        contents: the content of each file.
        findings: collects problems and repairs.
    """

    def __init__(self, source: VoTTSource, contents: dict[Path, dict], findings: Findings):
        self._source, self._contents, self._findings = source, contents, findings
        folders = image_folders(source.folder, source.files[0], source.split)
        self._finder = ImageFinder(folders, findings, source.folder, source.split)

    def images(self) -> list[RawImage]:
        """Returns the images with their objects."""
        entries = list(self._entries())
        annotated = any(regions for _, _, regions, _ in entries)
        paths = self._finder.find([(name, where) for name, _, _, where in entries])
        images: dict[str, RawImage] = {}
        for (_, asset, regions, where), path in zip(entries, paths, strict=True):
            key = path and os.path.realpath(path)
            if key in images:
                text = f"{path} is listed twice, first as {images[key].where}"
                self._findings.problem("image listed twice", where, text)
            elif path:
                image = RawImage(path, "", where, self._size(asset, where), annotated=annotated)
                for number, region in enumerate(regions, 1):
                    image.objects += self._objects(region, f"{where}, region {number}")
                images[key] = image
        ids = image_ids([image.path for image in images.values()], self._source.folder)
        for image, image_id in zip(images.values(), ids, strict=True):
            image.image_id = image_id
        return list(images.values())

    def _entries(self) -> Iterator[tuple[str, dict, list, str]]:
        """Yields the name, the asset, the regions and the location of every image."""
        entries = [
            (file, number, entry)
            for file, content in self._contents.items()
            for number, entry in enumerate(self._assets(file, content), 1)
        ]
        names = Counter(_text(entry["asset"].get("name")) for _, _, entry in entries)
        for file, number, entry in entries:
            asset, regions = entry["asset"], entry.get("regions")
            name, path = _text(asset.get("name")), _path(asset)
            where = f"{file}, asset {name or path or number}"
            if names[name] > 1 or not name:
                name = path or name
            regions = [] if regions is None else regions
            if self._is_usable(name, asset, regions, where):
                yield name, asset, regions, where

    def _assets(self, file: Path, content: dict) -> list[dict]:
        """Returns the assets of a file; reports entries that are not assets."""
        assets = content.get("assets", [content])
        entries = _dicts(assets)
        usable = [entry for entry in entries if isinstance(entry.get("asset"), dict)]
        count = len(assets) if isinstance(assets, (dict, list)) else 1
        if len(usable) < count:
            text = f"{count - len(usable)} of {count} assets have no `asset` with a name"
            self._problem(str(file), text)
        return usable

    def _is_usable(self, name: str, asset: dict, regions: object, where: str) -> bool:
        """Whether an asset is an annotated image; reports why not."""
        if asset.get("type") == _VIDEO:
            text = "the asset is a video; only its exported frames are images: it is left out"
            self._findings.repair("video", where, text)
        elif not name:
            self._problem(where, "the asset has no name")
        elif not isinstance(regions, list):
            self._problem(where, f"regions is {_short(regions)}, not a list")
        elif asset.get("state") == _NOT_VISITED and not regions:
            text = "the image has not been visited in VoTT: visit it, or export without it"
            self._findings.problem("image without annotation", where, text)
        else:
            return True
        return False

    def _size(self, asset: dict, where: str) -> tuple[int, int] | None:
        """Returns height and width; None after reporting that they are not positive numbers."""
        size = asset.get("size")
        values = [size.get(key) for key in ("height", "width")] if isinstance(size, dict) else []
        if values and all(is_number(x) and x >= 1 for x in values):
            return int(values[0]), int(values[1])
        self._findings.repair("image size missing", where, f"size is {_short(size)}")
        return None

    def _objects(self, region: object, where: str) -> list[RawObject]:
        """Returns an object for every tag of a region, as VoTT's own exports to VOC and csv do."""
        region = region if isinstance(region, dict) else {}
        tags = region.get("tags")
        if not (isinstance(tags, list) and tags and all(map(_text, tags))):
            text = f"tags is {_short(tags)}: give the region the name of a class as tag"
            return self._problem(where, text) or []
        corners = self._corners(region, where)
        if corners is None:
            return []
        if len(tags) > 1:
            text = f"the region has the tags {', '.join(tags)}: it is read as {len(tags)} objects"
            self._findings.repair("region with several tags", where, text)
        return [RawObject(tag, corners, where) for tag in tags]

    def _corners(self, region: dict, where: str) -> _Corners | None:
        """Returns the box of a region; None after reporting that it has none."""
        box, points = region.get("boundingBox"), region.get("points")
        if region.get("type") in _WITHOUT_BOX:
            text = f"the region is a {region['type']}, which has no box: draw a rectangle or a "
            return self._problem(where, text + "polygon, or remove the region")
        if box is None and _are_points(points):
            text = "there is no boundingBox: the bounding box of the points is used"
            self._findings.repair("box of a polygon", where, text)
            xs, ys = [point["x"] for point in points], [point["y"] for point in points]
            return min(xs), min(ys), max(xs), max(ys)
        keys = ("left", "top", "width", "height")
        values = [box.get(key) for key in keys] if isinstance(box, dict) else []
        if not (values and all(map(is_number, values))):
            text = f"boundingBox is {_short(box)}; give {', '.join(keys)} as numbers"
            return self._problem(where, text)
        x, y, width, height = values
        return x, y, x + width, y + height

    def _problem(self, where: str, text: str) -> None:
        return self._findings.problem("unreadable annotation", where, text)


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.strip() else ""


def _path(asset: dict) -> str:
    """Returns the path of an asset, such as "file:C:/photos/a.png", without scheme and query."""
    return _text(asset.get("path")).removeprefix("file:").partition("?")[0]


def _are_points(points: object) -> bool:
    return (
        isinstance(points, list)
        and len(points) > 2
        and all(isinstance(x, dict) and is_number(x.get("x")) for x in points)
        and all(is_number(x.get("y")) for x in points)
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
