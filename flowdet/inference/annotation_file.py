"""Matches images and classes with the entries of a COCO annotation file.

Detections in JSON then have the image ids and category ids of that file, which pycocotools needs to
compare them with it.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flowdet.data.custom.formats.base import read_flag
from flowdet.data.image_reader import image_size
from flowdet.engine.category_ids import CategoryId

# a message names at most this many images or classes
_MAX_NAMED = 5

ImageId = int | float | str


class AnnotationFile:
    """The images and categories of a COCO annotation file.

    Args:
        path: path of the json file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a COCO annotation file, or two images or two categories have
            the same id.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        content = _load(self.path)
        self._content = content
        self._categories = [x for x in content["categories"] if isinstance(x, dict)]
        images = [x for x in content["images"] if isinstance(x, dict)]
        _check_ids(self.path, "images", "file_name", images)
        _check_ids(self.path, "categories", "name", self._categories)
        self._count = len(images)
        self._by_name: dict[str, list[dict]] = defaultdict(list)
        for image in images:
            if isinstance(image.get("file_name"), str):
                self._by_name[_parts(image["file_name"])[-1]].append(image)

    def image_ids(
        self, files: Sequence[Path], report: Callable[[str], None]
    ) -> dict[Path, ImageId]:
        """Returns the image id of every file that the annotation file lists.

        A file belongs to the entry whose `file_name` is the end of its path. If there is none, it
        belongs to the only entry with the same name, whatever the folder.

        Args:
            files: paths of images.
            report: called with a message if files are not listed, or listed images are not given.

        Raises:
            ValueError: no file is listed, a file belongs to several entries, two files belong to
                one, or an image has another size than its entry.
        """
        entries = {file: entry for file in files if (entry := self._entry(file)) is not None}
        if not entries:
            raise ValueError(
                f"{self.path} lists none of the {len(files)} images, such as {files[0].name}: give "
                "the annotation file of these images"
            )
        self._check_distinct(entries)
        for file, entry in entries.items():
            self._check_size(file, entry)
        unlisted = [file.name for file in files if file not in entries]
        if unlisted:
            report(f"passed over, because {self.path} does not list them: {_some(unlisted)}")
        if len(entries) < self._count:
            report(
                f"{self.path} lists {self._count} images, and {len(entries)} of them were given: "
                "in an evaluation on the whole file the others are images without detections"
            )
        return {file: entry["id"] for file, entry in entries.items()}

    def category_ids(self, class_names: Sequence[str], report: Callable[[str], None]) -> list:
        """Returns the category id in this file for every class of a model, by name.

        A class without a category gets an id that no category has. Evaluations ignore it.

        Args:
            class_names: the class names by class index.
            report: called with a message if classes have no category.

        Raises:
            ValueError: no class or several categories have the same name.
        """
        by_name: dict[str, list[CategoryId]] = defaultdict(list)
        for category in self._categories:
            by_name[str(category.get("name")).strip()].append(category.get("id"))
        ids = [by_name.get(name.strip(), []) for name in class_names]
        for name, same in zip(class_names, ids):
            if len(same) > 1:
                raise ValueError(
                    f"{self.path} has {len(same)} categories with the name {name!r} (ids "
                    f"{', '.join(map(str, same))}): give every class one category"
                )
        if not any(ids):
            raise ValueError(
                f"{self.path} has the categories {_some(list(by_name)) or 'none'}, but the model "
                f"has the classes {_some(class_names)}: give an annotation file with these classes"
            )
        missing = [name for name, same in zip(class_names, ids) if not same]
        if missing:
            report(
                f"{self.path} has no category for {_some(missing)}: detections of these classes "
                "get ids that no category has"
            )
        free = _free_ids([x for same in by_name.values() for x in same])
        return [same[0] if same else next(free) for same in ids]

    def objects(self) -> dict[ImageId, list[dict]]:
        """Returns the annotations of every image, by image id; images without one are left out.

        Every annotation has `name` (of its category), `box` (absolute xyxy in pixels) and
        `iscrowd`.

        Raises:
            ValueError: there is no list of annotations, or an annotation has no category, no box of
                finite numbers, or another `iscrowd` than 0 or 1.
        """
        annotations = self._content.get("annotations")
        if not isinstance(annotations, list):
            raise ValueError(f"{self.path} has no list `annotations`, so it has no ground truth")
        names = {x["id"]: str(x.get("name")).strip() for x in self._categories}
        images = {x["id"]: str(x["id"]) for x in self._content["images"] if isinstance(x, dict)}
        texts = set(images.values())
        objects: dict[ImageId, list[dict]] = defaultdict(list)
        for i, annotation in enumerate(annotations):
            try:
                x, y, width, height = map(float, annotation["bbox"])
                name = names[annotation["category_id"]]
                image_id, crowd = annotation["image_id"], read_flag(annotation.get("iscrowd"))
                if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
                    raise ValueError("not a box")
                # a number in one place and a text in the other: its objects would be missing
                if image_id not in images and str(image_id) in texts or crowd is None:
                    raise ValueError("not an id or a flag")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"{self.path}: annotation {i} needs an `image_id` and a `category_id` of the "
                    "file, a `bbox` of four finite numbers (x, y, width and height at least 0), "
                    "and 0 or 1 as `iscrowd`: flowdet-check-data lists such faults"
                ) from error
            box = [x, y, x + width, y + height]
            objects[image_id].append({"name": name, "box": box, "iscrowd": bool(crowd)})
        return objects

    def _entry(self, file: Path) -> dict | None:
        """Returns the entry of an image; None if the file does not list it."""
        parts = _parts(os.path.abspath(file))
        candidates = self._by_name.get(parts[-1]) or self._same_but_for_case(parts[-1])
        lengths = [_common_suffix(parts, _parts(x["file_name"])) for x in candidates]
        longest = max(lengths, default=0)
        best = [x for x, length in zip(candidates, lengths) if length == longest]
        if not longest:
            best = candidates
        if len(best) > 1:
            names = ", ".join(f"{x['file_name']} (id {x['id']})" for x in best[:_MAX_NAMED])
            raise ValueError(
                f"{file} belongs to {len(best)} images of {self.path}: {names}. Give the images of "
                "one folder, or `file_name` with the folder"
            )
        return best[0] if best else None

    def _same_but_for_case(self, name: str) -> list[dict]:
        lower = name.lower()
        return [x for key, same in self._by_name.items() if key.lower() == lower for x in same]

    def _check_distinct(self, entries: dict[Path, dict]) -> None:
        files: dict[ImageId, Path] = {}
        for file, entry in entries.items():
            other = files.setdefault(entry["id"], file)
            if other != file:
                raise ValueError(
                    f"{other} and {file} both belong to the image {entry['file_name']} (id "
                    f"{entry['id']}) of {self.path}: give only one of them"
                )

    def _check_size(self, file: Path, entry: dict) -> None:
        """Raises ValueError if an image has another size than its entry."""
        size = tuple(entry.get(key) for key in ("height", "width"))
        if not all(type(x) in (int, float) and x > 0 for x in size):
            return
        try:
            actual = image_size(file)
        # reported when the image is processed
        except (OSError, ValueError):
            return
        # the size of the stored or of the upright pixels
        if size not in (actual, actual[::-1]):
            raise ValueError(
                f"{file} has {actual[1]}x{actual[0]} pixels, but {self.path} lists "
                f"{entry['file_name']} with {size[1]}x{size[0]}: it is another image, or resized"
            )


def _load(path: Path) -> dict[str, list]:
    """Reads the lists `images` and `categories` of a file."""
    try:
        # bytes, whose encoding (UTF-8, UTF-16, byte order marks) the decoder detects
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise OSError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
    lists = content if isinstance(content, dict) else {}
    missing = [key for key in ("images", "categories") if not isinstance(lists.get(key), list)]
    if missing:
        raise ValueError(
            f"{path} is not a COCO annotation file: it has no list {' and no list '.join(missing)}"
        )
    return lists


def _check_ids(path: Path, kind: str, key: str, entries: list[dict]) -> None:
    """Raises ValueError unless every image or category has its own id."""
    names: dict[ImageId | CategoryId, str] = {}
    for entry in entries:
        number, name = entry.get("id"), entry.get(key)
        if isinstance(number, bool) or not isinstance(number, (int, float, str)):
            raise ValueError(
                f"{path}: {name!r} in `{kind}` has the id {number!r}: give it a number or a text"
            )
        if number in names:
            raise ValueError(
                f"{path}: {names[number]!r} and {name!r} in `{kind}` have the same id {number!r}: "
                "give each its own id"
            )
        names[number] = name


def _parts(file_name: str) -> list[str]:
    """Splits a path of any system into folders and name; unifies the Unicode form."""
    text = unicodedata.normalize("NFC", file_name).replace("\\", "/")
    return [part for part in text.split("/") if part not in ("", ".")] or [""]


def _common_suffix(path: list[str], entry: list[str]) -> int:
    """Returns the length of an entry's path if it is the end of another path; otherwise 0."""
    return len(entry) if path[-len(entry) :] == entry else 0


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _free_ids(used: Iterable[CategoryId]) -> Iterable[CategoryId]:
    """Yields ids of the same type as the used ones that are not used."""
    used = set(used)
    is_text = all(isinstance(x, str) for x in used)
    number = 0
    while True:
        number += 1
        candidate = f"no category {number}" if is_text else number
        if candidate not in used:
            yield candidate
