"""Reads and writes detection datasets in the layout of PASCAL VOC.

A dataset is a folder with `JPEGImages/<id>.jpg`, `Annotations/<id>.xml` and
`ImageSets/Main/<split>.txt`, which lists one image id per line.
"""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode

from flowdet.data.xml_reader import LINE, parse_xml

__all__ = [
    "VOCAnnotation",
    "VOCObject",
    "load_voc_dicts",
    "read_voc_annotation",
    "write_voc_annotation",
]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")

# Called with the kind, the line, the text, and whether the entry is repaired. If it returns, an
# entry that is not repaired is left out.
Report = Callable[[str, str, str, bool], None]


@dataclass(frozen=True)
class VOCObject:
    """An object in an xml file.

    Attributes:
        name: the name of its class.
        corners: xmin, ymin, xmax, ymax as written in the file: absolute pixels, which VOC counts
            from 1; the last pixel is included.
        difficult: 1 if the object is marked difficult, else 0.
        line: the line of the file where the object begins.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: int
    line: int


@dataclass(frozen=True)
class VOCAnnotation:
    """The content of an xml file.

    Attributes:
        file_name: the image that the file names; "" for none.
        size: height and width of the image in pixels; None if the file lacks them.
        objects: the objects.
    """

    file_name: str
    size: tuple[int, int] | None
    objects: list[VOCObject]


def load_voc_dicts(
    dirname: str | Path, split: str, class_names: Sequence[str], keep_difficult: bool
) -> list[dict]:
    """Reads a split as detectron2 dataset dicts. No image is opened.

    Args:
        dirname: the folder of the dataset.
        split: the name of a list in ImageSets/Main, without suffix.
        class_names: the class names by class index.
        keep_difficult: whether objects marked difficult are kept.

    Returns:
        One dict per image in the order of the list, also for images without objects. Boxes are
        absolute xyxy in pixels counted from 0 (`xmin - 1, ymin - 1, xmax, ymax`, as in detectron2);
        every annotation also has "difficult" (0 or 1).

    Raises:
        FileNotFoundError: the folder, the list or an annotation does not exist.
        ValueError: the list is empty or malformed, an annotation is malformed, or a class is not
            in `class_names`.
    """
    root = Path(dirname)
    class_indices = {name: i for i, name in enumerate(class_names)}
    records = []
    for image_id in _read_split(root, split):
        path = root / "Annotations" / f"{image_id}.xml"
        if not path.is_file():
            raise FileNotFoundError(f"image {image_id} of split {split!r} has no annotation {path}")
        record = _read_record(path, class_indices, keep_difficult)
        record["file_name"] = str(root / "JPEGImages" / f"{image_id}.jpg")
        record["image_id"] = image_id
        records.append(record)
    return records


def read_voc_annotation(path: Path, report: Report | None = None) -> VOCAnnotation | None:
    """Reads an xml file.

    Args:
        path: the file.
        report: called for every entry that is unusable or repaired. None raises the first one.

    Returns:
        The content of the file; None if it is not XML and `report` returns.

    Raises:
        ValueError: the file is not XML, a tag is missing, or a value is not a number, and `report`
            is None. The message starts with "annotation <path>:<line>: ".
    """
    report = report or _raise_first(path)
    try:
        root = parse_xml(path)
    except ValueError as error:
        # the message is "<path>:<line>: <text>"
        line, _, text = str(error).removeprefix(f"{path}:").partition(": ")
        return report("unreadable annotation", line, text, False)
    if root.tag != "annotation":
        text = f"the file is not a VOC annotation: it begins with <{root.tag}>"
        return report("unreadable annotation", root.get(LINE), text, False)
    objects = [_object(element, report) for element in root.iter("object")]
    name = (root.findtext("filename") or "").strip()
    return VOCAnnotation(name, _size(root, report), [x for x in objects if x is not None])


def write_voc_annotation(
    path: Path,
    file_name: str,
    size: tuple[int, int],
    boxes: np.ndarray,
    names: Sequence[str],
    difficult: Sequence[int] | None = None,
) -> None:
    """Writes the annotation of an image as VOC xml.

    Args:
        path: the file to write.
        file_name: file name of the image.
        size: height and width of the image, in pixels.
        boxes: [N, 4], absolute xyxy in pixels counted from 0, with exclusive x2 and y2. They are
            written in VOC's form: counted from 1, with inclusive xmax and ymax.
        names: the class name of each of the N boxes.
        difficult: 0 or 1 for each of the N boxes; None stands for 0.
    """
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    frame = ET.SubElement(root, "size")
    for tag, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        ET.SubElement(frame, tag).text = str(value)
    corners = np.asarray(boxes, dtype=float).reshape(-1, 4) + (1, 1, 0, 0)
    flags = [0] * len(names) if difficult is None else difficult
    for box, name, flag in zip(corners.tolist(), names, flags, strict=True):
        obj = ET.SubElement(root, "object")
        fields = {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": flag}
        for tag, value in fields.items():
            ET.SubElement(obj, tag).text = str(value)
        bndbox = ET.SubElement(obj, "bndbox")
        for tag, value in zip(_CORNERS, box, strict=True):
            ET.SubElement(bndbox, tag).text = f"{value:.12g}"
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="unicode")


def _read_split(root: Path, split: str) -> list[str]:
    """Returns the image ids of a split."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"dataset folder {root} does not exist: set the environment variable "
            "DETECTRON2_DATASETS to the folder with your datasets, laid out as in "
            "datasets/README.md"
        )
    folder = root / "ImageSets" / "Main"
    listing = folder / f"{split}.txt"
    if not listing.is_file():
        splits = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise FileNotFoundError(
            f"split file {listing} does not exist; the splits in this folder: {splits}"
        )
    ids = [
        line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not ids:
        raise ValueError(f"split file {listing} lists no image")
    for image_id in ids:
        # VOC's lists for one class, such as cat_train.txt, have a second column
        if len(image_id.split()) > 1:
            raise ValueError(
                f"split file {listing}: {image_id!r} is not one image id; an id contains no spaces"
            )
    return ids


def _raise_first(path: Path) -> Report:
    def report(kind: str, line: str, text: str, repaired: bool) -> None:
        raise ValueError(f"annotation {path}:{line}: {text}")

    return report


def _size(root: ET.Element, report: Report) -> tuple[int, int] | None:
    """Returns height and width; None after reporting that one is missing or not positive."""
    size = []
    for tag in ("height", "width"):
        content, line = _text(root, f"size/{tag}")
        number = _to_number(content)
        if not content or not number >= 1:
            value = f"is {content!r}, not a positive number" if content else "is missing or empty"
            text = f"<size/{tag}> {value}: the size of the image file is used"
            report("image size missing", line, text, True)
            return None
        size.append(int(number))
    return size[0], size[1]


def _object(element: ET.Element, report: Report) -> VOCObject | None:
    """Returns an object; None after reporting the first reason why it cannot be read."""
    name, line = _text(element, "name")
    if not name:
        return report("unreadable annotation", line, "<name> is missing or empty", False)
    # pretty-printed files may break a name
    name = re.sub(r"\s*[\r\n]\s*", " ", name)
    corners = _bndbox(element, name, report)
    if corners is None:
        return None
    return VOCObject(name, corners, _difficult(element, report), int(element.get(LINE)))


def _bndbox(element: ET.Element, name: str, report: Report) -> tuple | None:
    """Returns the corners of an object; a polygon without a box is replaced by its bounding box."""
    if element.find("bndbox") is None and (points := _polygon(element)):
        text = f"the {name!r} has no <bndbox>: the bounding box of its polygon is used"
        report("box of a polygon", element.get(LINE), text, True)
        xs, ys = points
        return min(xs), min(ys), max(xs), max(ys)
    if len(element.findall("bndbox")) > 1:
        text = f"the {name!r} has more than one <bndbox>: write an <object> for each"
        return report("unreadable annotation", element.get(LINE), text, False)
    corners = []
    for tag in _CORNERS:
        text, line = _text(element, f"bndbox/{tag}")
        number = _to_number(text)
        if math.isnan(number):
            value = f"is {text!r}, not a number" if text else "is missing or empty"
            return report("unreadable annotation", line, f"<bndbox/{tag}> {value}", False)
        corners.append(number)
    return tuple(corners)


def _polygon(element: ET.Element) -> tuple[list[float], list[float]] | None:
    """Returns the x and y of a polygon with tags x1, y1, x2, ... or with points; None for none."""
    tags = [(tag.tag, _to_number(tag.text or "")) for tag in element.iterfind("polygon//*")]
    xs = [value for tag, value in tags if re.fullmatch(r"x\d*", tag)]
    ys = [value for tag, value in tags if re.fullmatch(r"y\d*", tag)]
    complete = len(xs) == len(ys) >= 3 and all(map(math.isfinite, xs + ys))
    return (xs, ys) if complete else None


def _difficult(element: ET.Element, report: Report) -> int:
    """Returns 0 or 1; a word such as "Unspecified" is reported and read as 0, and another number
    as 1."""
    text = (element.findtext("difficult") or "").strip()
    words = {"": 0, "false": 0, "no": 0, "none": 0, "true": 1, "yes": 1}
    if text.lower() in words:
        return words[text.lower()]
    number = _to_number(text)
    if math.isnan(number):
        line = element.find("difficult").get(LINE)
        report("difficult is a word", line, f"<difficult> is {text!r}: it is read as 0", True)
        return 0
    if number not in (0, 1):
        line = element.find("difficult").get(LINE)
        report("difficult is not 0 or 1", line, f"<difficult> is {text!r}: it is read as 1", True)
    return int(number != 0)


def _to_number(text: str) -> float:
    """Returns the number in a text; nan if it is not a finite number."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    # Python reads 1_0 as 10
    return number if math.isfinite(number) and "_" not in text else math.nan


def _text(element: ET.Element, tag: str) -> tuple[str, str]:
    """Returns text and line of a descendant; "" and the nearest line if it is missing or empty."""
    descendant = element.find(tag)
    text = "" if descendant is None else (descendant.text or "").strip()
    parent = element.find(tag.rpartition("/")[0] or ".")
    line = next(e for e in (descendant, parent, element) if e is not None).get(LINE)
    return text, line


def _read_record(path: Path, class_indices: dict[str, int], keep_difficult: bool) -> dict:
    """Returns height, width and annotations of an xml file, for a dataset dict."""
    content = read_voc_annotation(path)
    height, width = content.size
    annotations = [_annotation(path, obj, class_indices) for obj in content.objects]
    return {
        "height": height,
        "width": width,
        "annotations": [a for a in annotations if keep_difficult or not a["difficult"]],
    }


def _annotation(path: Path, obj: VOCObject, class_indices: dict[str, int]) -> dict:
    """Returns an object as a detectron2 annotation."""
    where = f"annotation {path}:{obj.line}"
    if obj.name not in class_indices:
        names = ", ".join(class_indices)
        raise ValueError(f"{where}: class {obj.name!r} is unknown; the classes are {names}")
    x1, y1, x2, y2 = obj.corners
    if not (x1 <= x2 and y1 <= y2):
        raise ValueError(
            f"{where}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} of a {obj.name!r} is empty"
        )
    return {
        "category_id": class_indices[obj.name],
        "bbox": [x1 - 1, y1 - 1, x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
        "difficult": obj.difficult,
    }
