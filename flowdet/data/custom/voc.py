"""Reads a split in VOC format, in which images and xml files have matching names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from detectron2.structures import BoxMode

from flowdet.data.custom.layout import VOCSplit
from flowdet.data.custom.problems import ClassList, Problem, Report, check_box
from flowdet.data.detection.voc import VOCObject, read_voc_annotation
from flowdet.data.image_files import image_suffixes

__all__ = ["read_class_file", "read_voc"]


def read_voc(
    split: VOCSplit, classes: ClassList | None, report: Report
) -> tuple[list[dict], ClassList]:
    """Reads the dataset dicts of a split. No image is opened.

    Args:
        split: the files of the split.
        classes: the classes of the dataset; None takes the sorted names in the annotations.
        report: called for every problem; if it returns, the invalid entry is skipped.

    Returns:
        The dataset dicts in detectron2's format, and the classes. Boxes are absolute xyxy in pixels
        counted from 0. Every annotation also has "difficult" (0 or 1).
    """
    parsed = list(_parse(split, report))
    if classes is None:
        names = sorted({obj.name for _, _, objects in parsed for obj in objects})
        classes = ClassList(tuple(names), f"the annotations of {split.source}")
    class_indices = {name: i for i, name in enumerate(classes.names)}
    records = []
    for xml, record, objects in parsed:
        annotations = (
            _annotation(xml, record, obj, class_indices, classes, report) for obj in objects
        )
        records.append({**record, "annotations": [a for a in annotations if a is not None]})
    return records, classes


def read_class_file(path: Path, report: Report) -> ClassList:
    """Reads class names from a text file, one per line; empty lines are skipped.

    Args:
        path: the file.
        report: called for a repeated name and for a file without names.

    Returns:
        The names in the order of the file.
    """
    names: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name = line.strip()
        if name in names:
            text = f"class {name!r} is listed twice"
            report(Problem("class listed twice", f"{path}:{number}", text))
        elif name:
            names.append(name)
    if not names:
        text = "the file contains no class name: write one per line"
        report(Problem("empty class list", str(path), text))
    return ClassList(tuple(names), str(path))


def _parse(split: VOCSplit, report: Report) -> Iterator[tuple[Path, dict, list[VOCObject]]]:
    """Yields the xml file, the dataset dict without annotations and the objects of each image."""
    images = _by_stem(split.images, image_suffixes(), report)
    xmls = _by_stem(split.annotations, {".xml"}, report)
    for image_id, line in _image_ids(split, images, xmls, report):
        image, xml = images.get(image_id), xmls.get(image_id)
        if image is None:
            report(_missing_image(split, image_id, line, xml))
        elif xml is None:
            text = f"there is no {image_id}.xml; an image without objects needs an .xml file too"
            report(Problem("image without annotation", line or str(image), text))
        else:
            try:
                (height, width), objects = read_voc_annotation(xml)
            except ValueError as error:
                # the message is "annotation <path>:<line>: <text>"
                _, _, message = str(error).partition(f"{xml}:")
                number, _, text = message.partition(": ")
                report(Problem("unreadable annotation", f"{xml}:{number}", text))
                continue
            record = {"file_name": str(image), "image_id": image_id}
            yield xml, {**record, "height": height, "width": width}, objects


def _by_stem(folders: Iterable[Path], suffixes: set[str], report: Report) -> dict[str, Path]:
    """Lists the files with one of the suffixes, by file name without suffix."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in suffixes:
                continue
            if path.stem in files:
                text = f"{files[path.stem]} has the same name: keep one of them"
                report(Problem("two files of one name", str(path), text))
            files.setdefault(path.stem, path)
    return files


def _image_ids(
    split: VOCSplit, images: dict[str, Path], xmls: dict[str, Path], report: Report
) -> Iterator[tuple[str, str]]:
    """Yields image ids and the line that lists each; the line is "" if there is no list."""
    if split.listing is None:
        yield from ((image_id, "") for image_id in sorted(images.keys() | xmls.keys()))
        return
    seen = set()
    lines = split.listing.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        image_id, where = line.strip(), f"{split.listing}:{number}"
        if image_id in seen:
            report(Problem("image listed twice", where, f"image {image_id} is listed twice"))
        elif image_id:
            seen.add(image_id)
            yield image_id, where


def _missing_image(split: VOCSplit, image_id: str, line: str, xml: Path | None) -> Problem:
    """Returns the problem of an image id that has no image; `line` lists it, or `xml` names it."""
    folders = " or ".join(str(folder) for folder in split.images[:3])
    text = f"there is no image {image_id}.* in {folders}"
    if not line:
        return Problem("annotation without image", str(xml), text)
    if Path(image_id).suffix.lower() in image_suffixes():
        text += ": write names without suffix in the list"
    return Problem("missing image", line, text)


def _annotation(
    xml: Path,
    record: dict,
    obj: VOCObject,
    class_indices: dict[str, int],
    classes: ClassList,
    report: Report,
) -> dict | None:
    """Returns an object as a detectron2 annotation, or None after reporting a problem."""
    where = f"{xml}:{obj.line}"
    if obj.name not in class_indices:
        text = f"class {obj.name!r} is unknown; the classes in {classes.source}: {classes.listed()}"
        return report(Problem("unknown class", where, text))
    size = (record["height"], record["width"])
    box = check_box(obj.corners, size, obj.name, where, report)
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return {
        "category_id": class_indices[obj.name],
        # VOC counts pixels from 1, many tools from 0
        "bbox": [max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
        "difficult": obj.difficult,
    }
