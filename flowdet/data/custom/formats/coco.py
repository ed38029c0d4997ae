"""COCO: one json file per split, also as Roboflow, CVAT and Label Studio write it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    SPLITS,
    DatasetFormat,
    EncodingError,
    is_number,
    parents,
    read_flag,
    read_id,
    read_text,
    split_of,
    split_of_path,
)
from flowdet.data.custom.image_finder import ImageFinder
from flowdet.data.custom.raw import Category, RawImage, RawObject, RawSplit
from flowdet.data.image_files import image_suffixes

__all__ = ["COCO", "COCOSource", "load_json"]

# files of COCO with annotations other than boxes
_OTHER_COCO = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
# keys in the first part of a COCO file, and of files of other formats
_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:')
_OTHER_KEYS = re.compile(rb'"(shapes|assets)"\s*:')
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class COCOSource:
    """The files of a split.

    Attributes:
        path: the json file.
        images: candidates for the folder of the images.
        folder: the folder of the dataset.
        split: the name of the split, or `ALL`.
    """

    path: Path
    images: tuple[Path, ...]
    folder: Path
    split: str


@FORMAT_REGISTRY.register()
class COCO(DatasetFormat):
    layout = "annotations/*train*.json and *val*.json next to the folders of the images"

    def find(self, folder: Path) -> dict[str, COCOSource] | None:
        splits: dict[str, COCOSource] = {}
        for parent in (folder / "annotations", folder):
            files = [file for file in sorted(parent.glob("*.json")) if _may_be_coco(file)]
            for split in SPLITS:
                file = _json_of(files, split)
                if file and split not in splits:
                    images = _image_folders(folder, split, file)
                    splits[split] = COCOSource(file, images, folder, split)
        return splits or None

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, COCOSource] | None:
        json_files = [f for f in files if f.suffix.lower() == ".json" and _may_be_coco(f)]
        if not json_files:
            return None
        images = parents(file for file in files if file.suffix.lower() in image_suffixes())
        by_split: dict[str | None, list[Path]] = {}
        for file in json_files:
            by_split.setdefault(split_of_path(file, folder), []).append(file)
        for split, matches in by_split.items():
            if len(matches) > 1 or (split is None and len(by_split) > 1):
                names = ", ".join(str(file.relative_to(folder)) for file in matches[:4])
                raise ValueError(
                    f"{folder} has several COCO .json files for {split or 'an unnamed split'}: "
                    f"{names}; keep one for each split"
                )
        return {
            split or ALL: COCOSource(
                file, _folders_for(split, file, images, folder), folder, split or ALL
            )
            for split, (file,) in by_split.items()
        }

    def read(self, source: COCOSource, findings: Findings) -> RawSplit:
        data = load_json(source.path, findings)
        if data is None:
            return RawSplit([], source.path, readable=False)
        return _Reader(source, data, findings).read()


def load_json(path: Path, findings: Findings) -> dict[str, list[dict]] | None:
    """Loads a COCO file; the lists of annotations and categories may be missing.

    Returns:
        The content of the file; None after reporting that it is not a COCO file.
    """
    try:
        data = json.loads(read_text(path))
    except EncodingError as error:
        where = f"{path}:{error.line}"
        return findings.problem("unreadable annotation", where, str(error), fatal=True)
    # json raises RecursionError for a file with thousands of brackets
    except (ValueError, RecursionError) as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        text = f"the file is not JSON: {error}"
        return findings.problem("unreadable annotation", where, text, fatal=True)
    content = data if isinstance(data, dict) else {}
    lists = {key: content.get(key) for key in ("images", "annotations", "categories")}
    lists = {key: [] if key != "images" and x is None else x for key, x in lists.items()}
    wrong = [key for key, value in lists.items() if not _is_list_of_dicts(value)]
    if wrong:
        text = f"not a COCO file: it has no list of objects under {' and '.join(wrong)}"
        return findings.problem("unreadable annotation", path, text, fatal=True)
    return lists


def _is_list_of_dicts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _may_be_coco(file: Path) -> bool:
    """Whether a json file is in COCO format, by its name and its content.

    A file that is too broken to tell is one: it is reported when it is read. Of a large file only
    the first part is examined.
    """
    if file.name.startswith((*_OTHER_COCO, ".")):
        return False
    with open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if len(head) == _HEAD_BYTES:
        return bool(_KEYS.search(head)) and not _OTHER_KEYS.search(head)
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError):
        return True
    keys = content.keys() if isinstance(content, dict) else ()
    return file.name.startswith("instances_") or "images" in keys or "annotations" in keys


def _json_of(files: list[Path], split: str) -> Path | None:
    """Finds the only file with the split in its name; `instances_*.json` has precedence."""
    matches = [file for file in files if split_of(file.stem) == split]
    matches = [file for file in matches if file.name.startswith("instances_")] or matches
    if len(matches) > 1:
        names = ", ".join(file.name for file in matches)
        raise ValueError(
            f"{matches[0].parent} has several .json files for {split}: {names}; keep one of them"
        )
    return matches[0] if matches else None


def _image_folders(folder: Path, split: str, json_file: Path) -> tuple[Path, ...]:
    """Lists the existing folders that may hold the images of a json file.

    For instances_train2017.json these are train2017/, images/train2017/, train/ and so on.
    """
    first = json_file.stem.removeprefix("instances_")
    roots = (folder, folder / "images")
    named = [
        path
        for root in roots
        if root.is_dir()
        for path in sorted(root.iterdir())
        if path.is_dir() and split_of(path.name) == split
    ]
    candidates = [root / first for root in roots] + named + [*reversed(roots)]
    return tuple(dict.fromkeys(path for path in candidates if path.is_dir()))


def _folders_for(
    split: str | None, file: Path, images: Sequence[Path], folder: Path
) -> tuple[Path, ...]:
    """Lists the folders of images of a split, the folder of its json file first."""
    own = [path for path in images if split_of_path(path, folder) == split]
    # never the folders of other splits
    shared = [path for path in images if split_of_path(path, folder) is None]
    return tuple(dict.fromkeys([file.parent, *(own or shared), folder]))


class _Reader:
    """Reads the content of a json file.

    Args:
        source: the files of the split.
        data: the content, from `load_json`.
        findings: collects problems and repairs.
    """

    def __init__(self, source: COCOSource, data: dict[str, list[dict]], findings: Findings):
        self._path, self._data, self._findings = source.path, data, findings
        self._split = source.split
        folders = source.images or (source.path.parent,)
        self._finder = ImageFinder(folders, findings, source.folder, source.split)
        # ids of reported entries
        self._rejected_categories: set[int | str | None] = set()
        self._rejected_images: set[int | str | None] = set()

    def read(self) -> RawSplit:
        """Returns the images, objects and categories of the file."""
        categories = self._categories()
        images = self._images()
        names = {category.id: category.name for category in categories}
        has_objects = bool(self._data["annotations"])
        for number, annotation in enumerate(self._data["annotations"]):
            self._add(annotation, number, images, names)
        found = [image for image in images.values() if image.path]
        for image in found:
            image.annotated = has_objects
        return RawSplit(
            found,
            self._path,
            categories or None,
            str(self._path),
            names_are_ids=not categories,
        )

    def _categories(self) -> list[Category]:
        """Returns the valid categories, sorted by id; reports invalid and repeated ones."""
        categories: dict[int | str, Category] = {}
        for entry in self._data["categories"]:
            category_id, name = read_id(entry.get("id")), entry.get("name")
            if category_id is None or not (isinstance(name, str) and name.strip()):
                text = f"category {entry} needs an integer or text `id` and a text `name`"
                self._problem("unreadable annotation", self._path, text)
            elif category_id in categories or name in (c.name for c in categories.values()):
                text = f"category {name!r} (id {category_id}) has the id or the name of another "
                text += "category: rename one of them"
                self._problem("class listed twice", self._path, text)
            else:
                group = entry.get("supercategory")
                categories[category_id] = Category(name, category_id, str(group or ""))
                continue
            # its objects are not reported one by one
            self._rejected_categories.add(category_id)
        return sorted(categories.values(), key=lambda c: (isinstance(c.id, str), c.id))

    def _entries(self) -> dict[int | str, tuple[str, str, dict]]:
        """Returns file name, location and entry of the images by id.

        If different files have the same id, all of them are left out, because the objects could
        belong to any of them.
        """
        entries: dict[int | str, tuple[str, str, dict]] = {}
        for number, image in enumerate(self._data["images"]):
            image_id, name = read_id(image.get("id")), image.get("file_name")
            where = f"{self._path}, image {image.get('id', f'number {number}')}"
            if image_id is None or not (isinstance(name, str) and name.strip()):
                unusable = "id" if image_id is None else "file_name"
                text = f"{name or 'an image'} has no usable {unusable}: {image.get(unusable)!r}"
                self._problem("unreadable annotation", where, text)
                self._rejected_images.add(image_id)
            elif image_id not in entries:
                entries[image_id] = (name, where, image)
            elif entries[image_id][0] == name:
                self._findings.repair("image listed twice", where, f"{name} is listed twice")
            else:
                text = f"{name} has the id of another image, {entries[image_id][0]}"
                self._problem("image listed twice", where, text)
                self._rejected_images.add(image_id)
        return {key: entry for key, entry in entries.items() if key not in self._rejected_images}

    def _images(self) -> dict[int | str, RawImage]:
        """Returns the images by id; an image without a file has no path."""
        entries = self._entries()
        first = (self._path.stem.removeprefix("instances_"), self._split, self._path.parent.name)
        self._finder.prefer([name for name, _, _ in entries.values()], first)
        paths = self._finder.find([(name, where) for name, where, _ in entries.values()])
        return {
            image_id: RawImage(path, image_id, where, self._size(image, name, where))
            for path, (image_id, (name, where, image)) in zip(paths, entries.items(), strict=True)
        }

    def _size(self, image: dict, name: str, where: str) -> tuple[int, int] | None:
        """Returns height and width; None after reporting that they are not positive numbers."""
        size = (image.get("height"), image.get("width"))
        if all(is_number(x) and x >= 1 for x in size):
            return int(size[0]), int(size[1])
        text = (
            f"{name} has the height {size[0]!r} and the width {size[1]!r}: the size of the image "
        )
        text += "file is used"
        self._findings.repair("image size missing", where, text)
        return None

    def _add(
        self, annotation: dict, number: int, images: dict, names: dict[int | str, str]
    ) -> None:
        """Adds an object to its image, or reports why it cannot be used."""
        where = f"{self._path}, annotation {annotation.get('id', f'number {number}')}"
        image = _get(images, annotation.get("image_id"))
        if image is None:
            if read_id(annotation.get("image_id")) in self._rejected_images - {None}:
                return None
            text = f"no image has the id {annotation.get('image_id')!r}"
            return self._problem("annotation without image", where, text)
        where = f"{where} of {image.path.name if image.path else image.where}"
        name = _get(names, annotation.get("category_id"))
        if read_id(annotation.get("category_id")) in self._rejected_categories - {None}:
            return None
        if name is None and names:
            known = ", ".join(f"{i} ({name})" for i, name in list(names.items())[:12])
            text = f"category {annotation.get('category_id')!r} is unknown; the categories are "
            return self._problem("unknown class", where, text + known)
        corners = self._corners(annotation, where)
        crowd = read_flag(annotation.get("iscrowd"))
        if crowd is None:
            text = f"iscrowd is {annotation['iscrowd']!r}; give 0 or 1"
            return self._problem("unreadable annotation", where, text)
        if corners is None:
            return None
        area = annotation.get("area")
        # without categories the class is the id, which the training split names
        name = name if names else read_id(annotation.get("category_id"))
        if name is None:
            text = f"category_id is {annotation.get('category_id')!r}; give the id of a category"
            return self._problem("unknown class", where, text)
        image.objects.append(
            RawObject(
                name,
                corners,
                where,
                iscrowd=crowd,
                area=area if is_number(area) and area > 0 else None,
            )
        )

    def _corners(self, annotation: dict, where: str) -> tuple[float, ...] | None:
        """Returns the corners of a box; None after reporting that it is not readable."""
        box = annotation.get("bbox")
        if box in (None, []) and (polygon := _polygon_corners(annotation.get("segmentation"))):
            text = "there is no bbox: the bounding box of the segmentation is used"
            self._findings.repair("box of a polygon", where, text)
            return polygon
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
            text = f"bbox is {box!r}; give [x, y, width, height] as numbers"
            return self._problem("unreadable annotation", where, text)
        x, y, w, h = box
        return x, y, x + w, y + h

    def _problem(self, kind: str, where: object, text: str) -> None:
        return self._findings.problem(kind, where, text)


def _get(values: dict, key: object) -> object | None:
    """Returns the value of an id; 3 and "3" are the same if only one of them is an id."""
    key = read_id(key)
    if key is None or key in values:
        return values.get(key)
    if isinstance(key, int):
        return values.get(str(key))
    # "007" is another id than 7
    return values.get(int(key)) if re.fullmatch("0|-?[1-9][0-9]*", key) else None


def _polygon_corners(segmentation: object) -> tuple[float, ...] | None:
    """Returns the bounding box of the polygons of a segmentation; None if it has none."""
    polygons = segmentation if isinstance(segmentation, list) else []
    points = [x for part in polygons for x in (part if isinstance(part, list) else [None])]
    if len(points) < 6 or len(points) % 2 or not all(map(is_number, points)):
        return None
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)
