"""Reading a split in COCO format: one json file for all images."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from detectron2.structures import BoxMode

from flowdet.data.custom.layout import COCOSplit
from flowdet.data.custom.problems import ClassList, Problem, Report, check_box

__all__ = ["complete", "load_json", "read_coco"]

_LISTS = ("images", "annotations", "categories")


def load_json(path: Path, report: Report) -> dict[str, list[dict]] | None:
    """The content of a COCO file, or None after reporting that it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        return report(Problem("unreadable annotation", where, f"no json: {error}"))
    lists = data if isinstance(data, dict) else {}
    missing = [n for n in _LISTS if not _is_list_of_dicts(lists.get(n))]
    if missing:
        text = f"no COCO file: it lacks {' and '.join(missing)}, or they are no lists of objects"
        return report(Problem("unreadable annotation", str(path), text))
    return data


def _is_list_of_dicts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def read_coco(
    split: COCOSplit, data: dict, classes: ClassList | None, report: Report
) -> tuple[list[dict], ClassList, dict[int, int]]:
    """The dataset dicts of a split, the classes, and class index by category id.

    Boxes are absolute xyxy pixels, clipped to the image.

    data: as `load_json` gives it. classes: those of the training split; None takes the file's
    categories, by their ids. report: gets every problem; what is wrong is left out if it returns.
    """
    path = split.json_file
    names = _category_names(path, data["categories"], report)
    if classes is None:
        classes = ClassList(tuple(names[i] for i in sorted(names)), str(path))
    _compare_classes(path, names, classes, report)
    index = {i: classes.names.index(name) for i, name in names.items() if name in classes.names}
    records = _image_records(split, data["images"], report)
    for number, annotation in enumerate(data["annotations"]):
        where = f"{path}, annotation {annotation.get('id', f'at place {number}')}"
        _add_annotation(annotation, where, records, names, index, report)
    # those without a file are kept until here: their annotations are no problems of their own
    return [r for r in records.values() if r["file_name"]], classes, index


def complete(data: dict) -> bool:
    """Whether a COCO file has what COCO's evaluation reads; what lacks is filled in, in place.

    That is area and iscrowd, which many tools leave out, and unique ids above 0: an object whose
    id is 0 counts as never found there.
    """
    annotations = data["annotations"]
    ids = {a.get("id") for a in annotations}
    is_complete = "info" in data and len(ids) == len(annotations) and not {0, None} & ids
    is_complete &= all("area" in a and "iscrowd" in a for a in annotations)
    if not is_complete:
        data.setdefault("info", {})
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
            annotation.setdefault("iscrowd", 0)
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    return is_complete


def _category_names(path: Path, categories: list[dict], report: Report) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        number, name = category.get("id"), category.get("name")
        if not (isinstance(number, int) and isinstance(name, str)):
            text = f"category {category} needs a number as id and a name"
            report(Problem("unreadable annotation", str(path), text))
        elif number in names or name in names.values():
            text = f"category {name!r} (id {number}): its id or its name is there twice"
            report(Problem("class listed twice", str(path), text))
        else:
            names[number] = name
    if not categories:
        report(Problem("empty class list", str(path), "the list of categories is empty"))
    return names


def _compare_classes(path: Path, names: dict[int, str], classes: ClassList, report: Report) -> None:
    """The same names in the same order in both, whatever their ids."""
    own = [names[i] for i in sorted(names)]
    if own == list(classes.names):
        return
    only_here = ", ".join(name for name in own if name not in classes.names)
    only_there = ", ".join(name for name in classes.names if name not in own)
    parts = [f"only here: {only_here}"] if only_here else []
    parts += [f"only in {classes.source}: {only_there}"] if only_there else []
    if not parts:
        parts = [
            f"by their ids they are {', '.join(own)}, and {classes.listed()} in {classes.source}"
        ]
    text = f"its categories are not those of the training split; {'; '.join(parts)}"
    report(Problem("class list differs", str(path), text))


def _image_records(split: COCOSplit, images: list[dict], report: Report) -> dict[object, dict]:
    """Dataset dicts by image id; `file_name` is empty after reporting a missing image."""
    folder, there = _image_folder(split, images), _Files()
    records: dict[object, dict] = {}
    for number, image in enumerate(images):
        name, where = image.get("file_name"), f"{split.json_file}, image {image.get('id', number)}"
        if wrong := _wrong_keys(image):
            text = f"{name or 'an image'} has no usable {', '.join(wrong)}"
            report(Problem("unreadable annotation", where, text))
            continue
        if image["id"] in records:
            report(Problem("image listed twice", where, f"the id of {name} is there twice"))
            continue
        path = os.path.join(folder, name)
        if path not in there:
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


def _wrong_keys(image: dict) -> list[str]:
    """The keys of an image that are missing or of a wrong kind."""
    kinds = {"id": (int, str), "file_name": str, "width": (int, float), "height": (int, float)}
    wrong = [key for key, kind in kinds.items() if not isinstance(image.get(key), kind)]
    return wrong or [key for key in ("width", "height") if image[key] < 1]


class _Files:
    """Whether files are there; every folder is read once, as there may be very many images."""

    def __init__(self):
        self._names: dict[str, set[str]] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in self._names[folder]


def _image_folder(split: COCOSplit, images: list[dict]) -> Path:
    """Of the folders that may hold the images, the one that holds most of the first ones."""
    first = [str(image.get("file_name")) for image in images[:50]]
    folders = split.images or (split.json_file.parent,)
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in first))


def _add_annotation(
    annotation: dict,
    where: str,
    records: dict[object, dict],
    names: dict[int, str],
    index: dict[int, int],
    report: Report,
) -> None:
    """Adds one object to the dict of its image, or reports a problem."""
    image_id, category = annotation.get("image_id"), annotation.get("category_id")
    record = records.get(image_id)
    if record is None:
        text = f"no image has the id {image_id!r}"
        return report(Problem("annotation without image", where, text))
    where = f"{where} of {os.path.basename(record['file_name']) or f'image {image_id}'}"
    if category not in names:
        known = ", ".join(f"{i} ({name})" for i, name in list(names.items())[:12])
        text = f"category {category!r} is unknown; known are {known}"
        return report(Problem("unknown class", where, text))
    box = annotation.get("bbox")
    if not _is_box(box):
        text = f"bbox is {box!r}; give [x, y, width, height]"
        return report(Problem("unreadable annotation", where, text))
    x, y, w, h = box
    size = (record["height"], record["width"])
    corners = check_box((x, y, x + w, y + h), size, names[category], where, report)
    # a class that the training split lacks was reported as a whole
    if corners is not None and category in index:
        record["annotations"].append(
            {
                "category_id": index[category],
                "bbox": corners,
                "bbox_mode": BoxMode.XYXY_ABS,
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
        )


def _is_box(box: object) -> bool:
    numbers = isinstance(box, list) and len(box) == 4
    return numbers and all(isinstance(x, (int, float)) and math.isfinite(x) for x in box)
