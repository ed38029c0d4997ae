"""The ground truth of a split as the content of a COCO file, for COCO's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowdet.data.custom.raw import ClassList

__all__ = ["EvaluationCopy", "coco_content"]


class EvaluationCopy(NamedTuple):
    """The ids in the content, under the names of detectron2's metadata.

    Attributes:
        thing_dataset_id_to_contiguous_id: class index by category id in the content.
        evaluation_image_ids: image id in the content by image id of the dataset; None if they are
            equal.
    """

    thing_dataset_id_to_contiguous_id: dict[int, int]
    evaluation_image_ids: dict[int | str, int] | None


def coco_content(
    records: Sequence[dict], classes: ClassList, annotated: bool = True
) -> tuple[dict, EvaluationCopy]:
    """Returns the content of a COCO file in which every value has the form that COCO expects.

    Annotations are numbered from 1: the evaluation counts an object with id 0 as a false negative,
    and also one of two objects with the same id. Image and category ids are numbered if they are
    not all integers. `area` is the area of the box, unless the annotation has one.

    Args:
        records: dataset dicts with boxes as absolute xyxy in pixels.
        classes: the classes of the dataset.
        annotated: whether the split has annotations. Without, the content has no "annotations", and
            an evaluation writes detections only.

    Returns:
        The content and its ids.
    """
    image_ids = _numbered([record["image_id"] for record in records])
    ids = classes.ids or range(len(classes.names))
    category_ids = [(_numbered(ids) or {}).get(i, i) for i in ids]
    images = [
        {
            "id": (image_ids or {}).get(record["image_id"], record["image_id"]),
            "file_name": record["file_name"],
            "height": record["height"],
            "width": record["width"],
        }
        for record in records
    ]
    categories = [
        {"id": i, "name": name} for i, name in zip(category_ids, classes.names, strict=True)
    ]
    content = {"info": {}, "images": images, "categories": categories}
    if annotated:
        boxes = [
            _box(annotation, image["id"], category_ids)
            for image, record in zip(images, records, strict=True)
            for annotation in record["annotations"]
        ]
        content["annotations"] = [{"id": number, **box} for number, box in enumerate(boxes, 1)]
    return content, EvaluationCopy({i: k for k, i in enumerate(category_ids)}, image_ids)


def _numbered(ids: Sequence[int | str]) -> dict[int | str, int] | None:
    """Returns numbers from 1 by id; None if the ids are all integers."""
    if all(isinstance(i, int) for i in ids):
        return None
    return {i: number for number, i in enumerate(ids, 1)}


def _box(annotation: dict, image_id: int, category_ids: Sequence[int]) -> dict:
    x1, y1, x2, y2 = annotation["bbox"]
    return {
        "image_id": image_id,
        "category_id": category_ids[annotation["category_id"]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": annotation.get("area", (x2 - x1) * (y2 - y1)),
        "iscrowd": annotation["iscrowd"],
    }
