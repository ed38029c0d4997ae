"""Turns the raw content of a split into detectron2's dataset dicts: checks and repairs it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from detectron2.structures import BoxMode

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.image_headers import ImageHeader, read_headers
from flowdet.data.custom.raw import ClassList, RawImage, RawObject, RawSplit

__all__ = ["build_records", "class_list"]

# pixels by which a box may leave the image without notice, as tools count from 0 or from 1
_SLACK = 1.0
# A box may leave the image by this many pixels, or by this fraction of the image's side, whichever
# is larger. It is then clipped. Other boxes probably belong to another image.
_CLIPPED_PIXELS, _CLIPPED_FRACTION = 5.0, 0.05


def class_list(raw: RawSplit) -> ClassList:
    """Returns the classes that the training split defines: the listed ones, or the sorted names of
    its objects."""
    if raw.categories is not None:
        return ClassList(tuple(raw.categories), raw.class_source)
    names = {obj.name for image in raw.images for obj in image.objects}
    return ClassList.of_names(sorted(names), raw.class_source)


def build_records(
    raw: RawSplit, classes: ClassList, evaluator_type: str, findings: Findings, open_images: bool
) -> list[dict]:
    """Returns the dataset dicts of a split in detectron2's format.

    Args:
        raw: the content of the split.
        classes: the classes of the dataset.
        evaluator_type: "pascal_voc" adds "difficult" to the annotations, "coco" adds "iscrowd" and,
            if the file has one, "area".
        findings: collects problems, whose box or image is left out, and repairs.
        open_images: whether the header of every image is read, to compare its size with the
            annotated one. Images without an annotated size are opened in any case.

    Returns:
        One dict per image. Boxes are absolute xyxy in pixels counted from 0, within the image.
        An image also has "orientation", if its EXIF orientation is not 1 and the annotated size
        does not show whether the boxes are those of the upright picture.
    """
    _check_unit(raw, findings)
    indices = _class_indices(raw, classes, findings)
    headers = _headers([x for x in raw.images if open_images or x.size is None and not x.measured])
    sizes = [_size(image, headers.get(id(image)), findings) for image in raw.images]
    records = []
    for image, size in zip(raw.images, sizes, strict=True):
        if size is None:
            continue
        height, width = size
        record = {
            "file_name": str(image.path),
            "image_id": image.image_id,
            "height": height,
            "width": width,
        }
        if _orientation_is_unverified(image, headers.get(id(image))):
            record["orientation"] = headers[id(image)].orientation
        checked = (_box(obj, raw.origin, size, findings) for obj in image.objects)
        record["annotations"] = [
            _annotation(obj, box, index, evaluator_type)
            for obj, box in zip(image.objects, checked, strict=True)
            for index in [_index(obj, indices, classes, findings)]
            if box is not None and index is not None
        ]
        records.append(record)
    return records


def _check_unit(raw: RawSplit, findings: Findings) -> None:
    """Reports a split in which most boxes are within one pixel: their corners are fractions."""
    corners = [obj.corners for image in raw.images for obj in image.objects]
    fractions = sum(0 <= min(box) and 0 < max(box) <= 1 for box in corners)
    if fractions > len(corners) / 2:
        text = f"{fractions} of {len(corners)} boxes have corners from 0 to 1, which are fractions "
        text += "of the image: write them in pixels"
        findings.problem("boxes without pixels", raw.source, text, fatal=True)


def _class_indices(raw: RawSplit, classes: ClassList, findings: Findings) -> dict[object, int]:
    """Returns the class index by name; by category id if the split lists no categories but has ids.

    It reports categories that differ from the classes. Names that have been reported have the index
    -1.
    """
    by_name = {name: index for index, name in enumerate(classes.names)}
    if raw.names_are_ids:
        if raw.images and classes.names:
            text = f"the file has no categories: those of {classes.source} are used"
            findings.repair("categories missing", raw.source, text)
        ids = {category.id: index for index, category in enumerate(classes.categories)}
        return ids | {str(key): index for key, index in ids.items() if str(key) not in ids}
    if raw.categories is None:
        return by_name
    _compare_categories(raw, classes, findings)
    return by_name | {c.name: -1 for c in raw.categories if c.name not in by_name}


def _compare_categories(raw: RawSplit, classes: ClassList, findings: Findings) -> None:
    """Reports categories of a split that differ from the classes; their ids may differ."""
    names = [category.name for category in raw.categories]
    counts = Counter(obj.name for image in raw.images for obj in image.objects)
    extra = [name for name in names if name not in classes.names]
    missing = [name for name in classes.names if name not in names]
    common = [name for name in names if name in classes.names]
    parts = [f"only in this file: {', '.join(extra)}"] if extra else []
    parts += [f"only in {classes.source}: {', '.join(missing)}"] if missing else []
    text = "the categories differ from those of the training split; "
    if any(counts[name] for name in extra):
        count = sum(counts[name] for name in extra)
        text += f"{'; '.join(parts)}; {count} objects cannot be used"
        findings.problem("class list differs", raw.source, text)
    elif common != [name for name in classes.names if name in common]:
        text += f"sorted by id they are {', '.join(names)} in this file and {classes.listed()} in "
        findings.problem("class list differs", raw.source, text + classes.source)
    elif parts:
        text += f"{'; '.join(parts)}; no object has such a class"
        findings.repair("class list completed", raw.source, text)


def _headers(images: Sequence[RawImage]) -> dict[int, ImageHeader]:
    """Reads the headers of image files; returns them by the identity of the raw image."""
    headers = read_headers([image.path for image in images])
    return {id(image): header for image, header in zip(images, headers, strict=True)}


def _size(
    image: RawImage, header: ImageHeader | None, findings: Findings
) -> tuple[int, int] | None:
    """Returns the size of an image; None after reporting why the image cannot be used."""
    if header is None:
        return image.size
    if header.size is None:
        return findings.problem("unreadable image", image.path, header.error)
    if image.size not in (None, header.size):
        (height, width), (h, w) = image.size, header.size
        text = f"the annotated size is {width}x{height}, the image is {w}x{h}"
        if header.orientation != 1:
            text += " after the rotation in its EXIF data: remove the orientation from the file, "
            text += "or annotate the rotated image"
        return findings.problem("image of another size", image.path, text)
    return header.size


def _orientation_is_unverified(image: RawImage, header: ImageHeader | None) -> bool:
    if header is None or header.orientation == 1 or not image.objects:
        return False
    is_turned_by_90 = header.orientation >= 5
    is_known = image.size is not None and not image.measured and image.size[0] != image.size[1]
    return not (is_turned_by_90 and is_known)


def _index(
    obj: RawObject, indices: dict[object, int], classes: ClassList, findings: Findings
) -> int | None:
    """Returns the class index of an object; None after reporting that its class is unknown."""
    index = indices.get(obj.name)
    # without any class, the missing classes have been reported
    if index is None and classes.names:
        text = f"class {obj.name!r} is unknown; the classes in {classes.source}: {classes.listed()}"
        findings.problem("unknown class", obj.where, text)
    return None if index in (None, -1) else index


def _box(
    obj: RawObject, origin: int, size: tuple[int, int], findings: Findings
) -> list[float] | None:
    """Returns the box of an object clipped to its image, absolute xyxy in pixels counted from 0.

    Returns:
        None after reporting that the box has no area, has corners in the wrong order, or leaves the
        image by more than a few pixels.
    """
    x1, y1, x2, y2 = obj.corners
    name, spans = obj.name, f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(map(math.isfinite, obj.corners)):
        text = f"the box of a {name!r} is not a box of numbers: {spans}"
        return findings.problem("unreadable annotation", obj.where, text)
    box = x1 - origin, y1 - origin, x2, y2
    # equal corners are no box in practice, although VOC's boxes include their last pixel
    if x1 == x2 or y1 == y2 or (_area(box) == 0 and x2 >= box[0] and y2 >= box[1]):
        text = f"the box of a {name!r} has no area and is left out: {spans}"
        return findings.repair("box without area", obj.where, text)
    if x2 < box[0] or y2 < box[1]:
        text = f"the box of a {name!r} has its corners in the wrong order: {spans}"
        return findings.problem("corners in the wrong order", obj.where, text)
    return _clipped(box, obj, origin, size, findings)


def _clipped(
    box: tuple[float, ...],
    obj: RawObject,
    origin: int,
    size: tuple[int, int],
    findings: Findings,
) -> list[float] | None:
    """Returns a box clipped to its image; None after reporting that it is outside of it."""
    (height, width), (x1, y1, x2, y2) = size, box
    clipped = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    outside = max(-x1, -y1, x2 - width, y2 - height) - origin
    if outside <= _SLACK and _area(clipped) > 0:
        return clipped
    corners = ", ".join(f"{x:g}" for x in obj.corners)
    text = f"the box of a {obj.name!r} leaves the image of {width}x{height}"
    limit = max(_CLIPPED_PIXELS, _CLIPPED_FRACTION * min(size))
    if outside > limit or _area(clipped) < _area(box) / 2 or _area(clipped) <= 0:
        text = f"{text}: corners {corners}"
        return findings.problem("box outside the image", obj.where, text)
    findings.repair(
        "box clipped to the image", obj.where, f"{text} and is clipped: corners {corners}"
    )
    return clipped


def _area(box: Sequence[float]) -> float:
    x1, y1, x2, y2 = box
    return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


def _annotation(obj: RawObject, box: list[float], index: int, evaluator_type: str) -> dict:
    """Returns an object as a detectron2 annotation."""
    annotation = {"category_id": index, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
    if evaluator_type == "pascal_voc":
        return annotation | {"difficult": obj.difficult}
    annotation["iscrowd"] = obj.iscrowd
    return annotation if obj.area is None else annotation | {"area": obj.area}
