"""Writes datasets in COCO format, and edits their files."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

from tests.cases.case import (
    CONTENT,
    HEIGHT,
    NAMES,
    WIDTH,
    Content,
    write_picture,
)


def coco_data(images: dict, names=NAMES, suffix: str = ".png") -> dict:
    """The content of a COCO file; image and category ids count from 1."""
    data = {"info": {}, "images": [], "annotations": []}
    for image_id, (name, objects) in enumerate(images.items(), 1):
        data["images"].append(
            {"id": image_id, "file_name": name + suffix, "width": WIDTH, "height": HEIGHT}
        )
        data["annotations"] += [coco_object(image_id, index + 1, box) for index, box in objects]
    for number, annotation in enumerate(data["annotations"], 1):
        annotation["id"] = number
    data["categories"] = [
        {"id": i, "name": name, "supercategory": "none"} for i, name in enumerate(names, 1)
    ]
    return data


def coco_object(image_id: object, category_id: object, box) -> dict:
    """An annotation without an id; the box is absolute xyxy."""
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "segmentation": [],
    }


def write_coco(
    folder: Path,
    *edits,
    content: Content = CONTENT,
    names=NAMES,
    suffix=".png",
    file_name="annotations/instances_{split}.json",
    images="{split}/{name}",
    encode=lambda text: text.encode(),
) -> None:
    """Writes annotations/instances_*.json and a folder of images for each split.

    Each edit is called with the content of the file and the split before the file is written.
    """
    for split, part in content.items():
        data = copy.deepcopy(coco_data(part, names, suffix))
        for edit in edits:
            edit(data, split)
        path = folder / file_name.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(json.dumps(data)))
        for name, objects in part.items():
            write_picture(folder / images.format(split=split, name=name + suffix), objects)


def coco(*edits, **options):
    """Returns `write_coco` with its arguments, except the folder."""
    return partial(write_coco_with, edits, options)


def write_coco_with(edits, options, folder: Path) -> None:
    """Calls `write_coco` with the folder before the edits."""
    write_coco(folder, *edits, **options)


def every(key: str, **values):
    """An edit that sets values in all entries of a list; ... removes the key, a function maps."""

    def edit(data, split):
        for number, entry in enumerate(data[key]):
            for name, value in values.items():
                if value is ...:
                    entry.pop(name, None)
                else:
                    entry[name] = value(entry.get(name), number) if callable(value) else value

    return edit


def first(key: str, only: str | None = None, **values):
    """Like `every`, for the first entry, of one split if `only` is given."""

    def edit(data, split):
        if only in (None, split):
            part = {key: data[key][:1]}
            every(key, **values)(part, split)

    return edit


def added(**values):
    """An edit that adds an object at (1, 1, 9, 9) to the first image and sets values in it."""

    def edit(data, split):
        new = coco_object(data["images"][0]["id"], data["categories"][0]["id"], (1, 1, 9, 9))
        data["annotations"].append({"id": 900, **new})
        every("annotations", **values)({"annotations": data["annotations"][-1:]}, split)

    return edit


def top(only: str | None = None, **values):
    """An edit that sets top-level values of the file; ... removes them."""

    def edit(data, split):
        if only in (None, split):
            for key, value in values.items():
                data.pop(key) if value is ... else data.update({key: value})

    return edit


def category_ids(*ids):
    """An edit that replaces the category ids 1, 2, ..."""

    def edit(data, split):
        for entry, new in zip(data["categories"], ids, strict=True):
            entry["id"] = new
        for annotation in data["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"] - 1]

    return edit


def image_ids(new, new_reference=None):
    """An edit that maps the image ids, and the ids in annotations, maybe to another type."""

    def edit(data, split):
        for image in data["images"]:
            image["id"] = new(image["id"])
        for annotation in data["annotations"]:
            annotation["image_id"] = (new_reference or new)(annotation["image_id"])

    return edit


def add_category(**values):
    """An edit that adds a category with the id 3, unless `values` has another."""

    def edit(data, split):
        data["categories"].append({"id": 3, "supercategory": "none", **values})

    return edit


def text_of(data_edit, split_only="train"):
    """Writes a COCO dataset whose file of one split is replaced by the edited bytes."""

    def write(folder: Path) -> None:
        write_coco(folder)
        path = folder / f"annotations/instances_{split_only}.json"
        path.write_bytes(data_edit(path.read_bytes()))

    return write
