"""Reads a split in COCO format, which has one json file for all images."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from detectron2.structures import BoxMode

from flowdet.data.custom.layout import COCOSplit
from flowdet.data.custom.problems import ClassList, Problem, Report, check_box

__all__ = ["evaluation_copy", "load_json", "read_coco", "read_flag"]

_LISTS = ("images", "annotations", "categories")


def load_json(path: Path, report: Report) -> dict[str, list[dict]] | None:
    """Loads a COCO file.

    Args:
        path: the file.
        report: called if the file is not JSON, or lacks one of COCO's lists.

    Returns:
        The content of the file; None if a problem was reported.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        return report(Problem("unreadable annotation", where, f"the file is not JSON: {error}"))
    content = data if isinstance(data, dict) else {}
    missing = [name for name in _LISTS if not _is_list_of_dicts(content.get(name))]
    if missing:
        text = f"not a COCO file: it has no list of objects under {' and '.join(missing)}"
        return report(Problem("unreadable annotation", str(path), text))
    return data


def _is_list_of_dicts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def read_coco(
    split: COCOSplit, data: dict, classes: ClassList | None, report: Report
) -> tuple[list[dict], ClassList, dict[int, int]]:
    """Reads the dataset dicts of a split. No image is opened.

    Args:
        split: the files of the split.
        data: the content of its json file, from `load_json`.
        classes: the classes of the training split; None takes the file's categories, sorted by id.
        report: called for every problem; if it returns, the invalid entry is skipped.

    Returns:
        The dataset dicts in detectron2's format, with boxes as absolute xyxy in pixels, clipped to
        the image; the classes; and the class index of every category id.
    """
    path = split.json_file
    names = _category_names(path, data["categories"], report)
    if classes is None:
        classes = ClassList(tuple(names[i] for i in sorted(names)), str(path))
    _compare_classes(path, names, classes, report)
    class_indices = {
        i: classes.names.index(name) for i, name in names.items() if name in classes.names
    }
    records = _image_records(split, data["images"], report)
    for number, annotation in enumerate(data["annotations"]):
        where = f"{path}, annotation {annotation.get('id', f'number {number}')}"
        _add_annotation(annotation, where, records, names, class_indices, report)
    # images without a file are dropped last, so that their annotations are not reported as well
    return [r for r in records.values() if r["file_name"]], classes, class_indices


def evaluation_copy(data: dict) -> tuple[dict, dict[object, int] | None]:
    """Copies a COCO file, with every value in the form that COCO's evaluation expects.

    Annotation ids are numbered from 1: the evaluation counts an object with id 0 as a false
    negative, and also one of two objects with the same id. `iscrowd` is 0 or 1. `area` is the area
    of the box, unless the file has a positive number. Image ids are numbered if they are not all
    integers.

    Args:
        data: the content of the file, from `load_json`, without problems. It is not changed.

    Returns:
        The copy, and a dict from image ids to new image ids, or None if they stay the same.
    """
    images, image_ids = data["images"], None
    if not all(type(image["id"]) is int for image in images):
        image_ids = {image["id"]: number for number, image in enumerate(images, 1)}
        images = [{**image, "id": image_ids[image["id"]]} for image in images]
    annotations = [
        {
            **annotation,
            "id": number,
            "image_id": image_ids[annotation["image_id"]] if image_ids else annotation["image_id"],
            "iscrowd": read_flag(annotation.get("iscrowd")),
            "area": _area(annotation),
        }
        for number, annotation in enumerate(data["annotations"], 1)
    ]
    copy = {"info": {}, **data, "images": images, "annotations": annotations}
    return copy, image_ids


def _area(annotation: dict) -> float:
    """`area` if it is a positive number, otherwise the area of the box, in square pixels."""
    area, (_, _, width, height) = annotation.get("area"), annotation["bbox"]
    return area if _is_number(area) and area > 0 else width * height


def read_flag(value: object) -> int | None:
    """A flag such as `iscrowd`: 0 or 1; None for a value that is neither.

    Missing, null and empty values are 0; numbers and booleans, also as text, are read.
    """
    text = "0" if value is None else str(value).strip().lower()
    values = {"": 0, "0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
    return values.get(text)


def _category_names(path: Path, categories: list[dict], report: Report) -> dict[int, str]:
    """Returns the category names by id; reports invalid and repeated categories."""
    names: dict[int, str] = {}
    for category in categories:
        number, name = category.get("id"), category.get("name")
        if not (isinstance(number, int) and isinstance(name, str)):
            text = f"category {category} needs an integer `id` and a text `name`"
            report(Problem("unreadable annotation", str(path), text))
        elif number in names or name in names.values():
            text = f"category {name!r} (id {number}) has the id or the name of another category"
            report(Problem("class listed twice", str(path), text))
        else:
            names[number] = name
    if not categories:
        report(Problem("empty class list", str(path), "the list of categories is empty"))
    return names


def _compare_classes(path: Path, names: dict[int, str], classes: ClassList, report: Report) -> None:
    """Reports categories whose names or order differ from the classes; ids may differ."""
    categories = [names[i] for i in sorted(names)]
    if categories == list(classes.names):
        return
    extra = ", ".join(name for name in categories if name not in classes.names)
    missing = ", ".join(name for name in classes.names if name not in categories)
    parts = [f"only in this file: {extra}"] if extra else []
    parts += [f"only in {classes.source}: {missing}"] if missing else []
    if not parts:
        parts = [
            f"sorted by id they are {', '.join(categories)} in this file and {classes.listed()} in "
            f"{classes.source}"
        ]
    text = f"the categories differ from those of the training split; {'; '.join(parts)}"
    report(Problem("class list differs", str(path), text))


def _image_records(split: COCOSplit, images: list[dict], report: Report) -> dict[object, dict]:
    """Returns dataset dicts by image id; missing images are reported, their `file_name` is ""."""
    folder, files = _image_folder(split, images), _FileIndex()
    records: dict[object, dict] = {}
    for number, image in enumerate(images):
        name, where = image.get("file_name"), f"{split.json_file}, image {image.get('id', number)}"
        if unusable := _unusable_keys(image):
            text = f"{name or 'an image'} has no usable {', '.join(unusable)}"
            report(Problem("unreadable annotation", where, text))
            continue
        if image["id"] in records:
            text = f"{name} has the id of another image"
            report(Problem("image listed twice", where, text))
            continue
        path = os.path.join(folder, name)
        if path not in files:
            report(Problem("missing image", where, f"there is no image {name} in {folder}"))
            path = ""
        records[image["id"]] = {
            "file_name": path,
            "image_id": image["id"],
            "height": int(image["height"]),
            "width": int(image["width"]),
            "annotations": [],
        }
    return records


def _unusable_keys(image: dict) -> list[str]:
    """Lists the keys of an image that are missing or have an invalid value."""
    kinds = {"id": (int, str), "file_name": str, "width": (int, float), "height": (int, float)}
    unusable = [key for key, kind in kinds.items() if not isinstance(image.get(key), kind)]
    return unusable or [key for key in ("width", "height") if image[key] < 1]


class _FileIndex:
    """Checks whether files exist; lists each folder only once, for datasets with many images."""

    def __init__(self):
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in self._names[folder]


def _image_folder(split: COCOSplit, images: list[dict]) -> Path:
    """Picks the folder that contains most of the first 50 images."""
    names = [str(image.get("file_name")) for image in images[:50]]
    folders = split.images or (split.json_file.parent,)
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))


def _add_annotation(
    annotation: dict,
    where: str,
    records: dict[object, dict],
    names: dict[int, str],
    class_indices: dict[int, int],
    report: Report,
) -> None:
    """Adds an object to the dataset dict of its image, or reports a problem."""
    image_id, category = annotation.get("image_id"), annotation.get("category_id")
    record = records.get(image_id)
    if record is None:
        text = f"no image has the id {image_id!r}"
        return report(Problem("annotation without image", where, text))
    where = f"{where} of {os.path.basename(record['file_name']) or f'image {image_id}'}"
    if category not in names:
        known = ", ".join(f"{i} ({name})" for i, name in list(names.items())[:12])
        text = f"category {category!r} is unknown; the categories are {known}"
        return report(Problem("unknown class", where, text))
    box = annotation.get("bbox")
    if not _is_box(box):
        text = f"bbox is {box!r}; give [x, y, width, height]"
        return report(Problem("unreadable annotation", where, text))
    crowd = read_flag(annotation.get("iscrowd"))
    if crowd is None:
        text = f"iscrowd is {annotation['iscrowd']!r}; give 0 or 1"
        return report(Problem("unreadable annotation", where, text))
    x, y, w, h = box
    size = (record["height"], record["width"])
    corners = check_box((x, y, x + w, y + h), size, names[category], where, report)
    # categories that the training split lacks have been reported once for the whole file
    if corners is not None and category in class_indices:
        record["annotations"].append(
            {
                "category_id": class_indices[category],
                "bbox": corners,
                "bbox_mode": BoxMode.XYXY_ABS,
                "iscrowd": crowd,
            }
        )


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(x) for x in box)


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
