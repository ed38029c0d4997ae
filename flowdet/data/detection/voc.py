"""Reads and writes detection datasets in the layout of PASCAL VOC.

A dataset is a folder with `JPEGImages/<id>.jpg`, `Annotations/<id>.xml` and
`ImageSets/Main/<split>.txt`, which lists one image id per line.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
from detectron2.structures import BoxMode

__all__ = ["VOCObject", "load_voc_dicts", "read_voc_annotation", "write_voc_annotation"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# attribute of an XML element that stores the line where the element begins
_LINE = "_line"


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


def read_voc_annotation(path: Path) -> tuple[tuple[int, int], list[VOCObject]]:
    """Reads an xml file.

    Returns:
        Height and width of the image in pixels, and its objects.

    Raises:
        ValueError: the file is not XML, a tag is missing, or a value is not a number; the message
            starts with "annotation <path>:<line>: ".
    """
    root = _parse_with_lines(path)
    size = tuple(_number(path, root, f"size/{tag}") for tag in ("height", "width"))
    if min(size) < 1:
        line = root.find("size").get(_LINE)
        raise ValueError(f"annotation {path}:{line}: the image size must be positive")
    objects = [
        VOCObject(
            name=_text(path, obj, "name")[0],
            corners=tuple(_number(path, obj, f"bndbox/{tag}") for tag in _CORNERS),
            difficult=int(_number(path, obj, "difficult") if obj.findtext("difficult") else 0),
            line=int(obj.get(_LINE)),
        )
        for obj in root.findall("object")
    ]
    return (int(size[0]), int(size[1])), objects


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
            rounded and written in VOC's form: counted from 1, with inclusive xmax and ymax.
        names: the class name of each of the N boxes.
        difficult: 0 or 1 for each of the N boxes; None stands for 0.
    """
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    frame = ET.SubElement(root, "size")
    for tag, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        ET.SubElement(frame, tag).text = str(value)
    corners = np.rint(boxes).astype(int).reshape(-1, 4) + (1, 1, 0, 0)
    flags = [0] * len(names) if difficult is None else difficult
    for box, name, flag in zip(corners.tolist(), names, flags, strict=True):
        obj = ET.SubElement(root, "object")
        fields = {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": flag}
        for tag, value in fields.items():
            ET.SubElement(obj, tag).text = str(value)
        bndbox = ET.SubElement(obj, "bndbox")
        for tag, value in zip(_CORNERS, box, strict=True):
            ET.SubElement(bndbox, tag).text = str(value)
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
    ids = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"split file {listing} lists no image")
    for image_id in ids:
        # VOC's lists for one class, such as cat_train.txt, have a second column
        if len(image_id.split()) > 1:
            raise ValueError(
                f"split file {listing}: {image_id!r} is not one image id; an id contains no spaces"
            )
    return ids


def _parse_with_lines(path: Path) -> ET.Element:
    """Returns the root of an xml file; every element stores its line as an attribute."""
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, attributes).set(_LINE, str(parser.CurrentLineNumber))

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ValueError(f"annotation {path}:{error.lineno}: {reason}") from error
    return builder.close()


def _number(path: Path, element: ET.Element, tag: str) -> float:
    """Returns the number in a descendant; raises ValueError if it is missing."""
    text, line = _text(path, element, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"annotation {path}:{line}: <{tag}> is {text!r}, not a number")
    return number


def _text(path: Path, element: ET.Element, tag: str) -> tuple[str, str]:
    """Returns text and line of a descendant; raises ValueError if it is missing or empty."""
    descendant = element.find(tag)
    text = "" if descendant is None else (descendant.text or "").strip()
    if not text:
        parent = element.find(tag.rpartition("/")[0] or ".")
        line = next(e for e in (descendant, parent, element) if e is not None).get(_LINE)
        raise ValueError(f"annotation {path}:{line}: <{tag}> is missing or empty")
    return text, descendant.get(_LINE)


def _read_record(path: Path, class_indices: dict[str, int], keep_difficult: bool) -> dict:
    """Returns height, width and annotations of an xml file, for a dataset dict."""
    (height, width), objects = read_voc_annotation(path)
    annotations = [_annotation(path, obj, class_indices) for obj in objects]
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
