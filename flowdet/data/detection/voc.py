"""Reading and writing detection datasets in the layout of PASCAL VOC.

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
# attribute in which an element keeps the line where it begins
_LINE = "_line"


@dataclass(frozen=True)
class VOCObject:
    """An object as it stands in an xml file, in `line`; corners: xmin, ymin, xmax, ymax."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: int
    line: int


def load_voc_dicts(
    dirname: str | Path, split: str, class_names: Sequence[str], keep_difficult: bool
) -> list[dict]:
    """Read one split as detectron2 dataset dicts, one per image, in the order of its list.

    Boxes are absolute xyxy pixels that start at 0 (`xmin - 1, ymin - 1, xmax, ymax`, as in
    detectron2); every annotation also has "difficult" (0 or 1). With `keep_difficult` False
    difficult objects are left out. Images without objects stay.

    Raises FileNotFoundError when the folder, the list or an annotation is missing, ValueError
    when the list is empty or an annotation is malformed or has a class not in `class_names`.
    """
    root = Path(dirname)
    class_ids = {name: i for i, name in enumerate(class_names)}
    records = []
    for image_id in _read_split(root, split):
        path = root / "Annotations" / f"{image_id}.xml"
        if not path.is_file():
            raise FileNotFoundError(
                f"Image {image_id} of split {split!r} has no annotation {path}."
            )
        record = _read_record(path, class_ids, keep_difficult)
        record["file_name"] = str(root / "JPEGImages" / f"{image_id}.jpg")
        record["image_id"] = image_id
        records.append(record)
    return records


def write_voc_annotation(
    path: Path,
    file_name: str,
    size: tuple[int, int],
    boxes: np.ndarray,
    names: Sequence[str],
    difficult: Sequence[int] | None = None,
) -> None:
    """Write the annotation of one image of `size` (height, width) as VOC xml.

    boxes: [N, 4] absolute xyxy pixels that start at 0, with exclusive x2 and y2; stored the VOC
    way, as 1-based inclusive whole pixels. names: the class of each box. difficult: 0 or 1 for
    each box, all 0 by default.
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
    """The image ids of a split."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"Dataset folder {root} does not exist. Set the environment variable "
            "DETECTRON2_DATASETS to the folder that holds your datasets, laid out as "
            "datasets/README.md says."
        )
    folder = root / "ImageSets" / "Main"
    listing = folder / f"{split}.txt"
    if not listing.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"Split file {listing} does not exist; splits there: {there}.")
    ids = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"Split file {listing} lists no image.")
    for image_id in ids:
        # The lists of single classes, such as cat_train.txt, have a second column.
        if len(image_id.split()) > 1:
            raise ValueError(f"{listing}: {image_id!r} is not one image id without blanks.")
    return ids


def read_voc_annotation(path: Path) -> tuple[tuple[int, int], list[VOCObject]]:
    """Size (height, width) of the image and the objects of one xml file.

    Raises ValueError that names file and line for what is no xml, lacks a tag or holds no number.
    """
    root = _parse_with_lines(path)
    size = tuple(_number(path, root, f"size/{tag}") for tag in ("height", "width"))
    if min(size) < 1:
        line = root.find("size").get(_LINE)
        raise ValueError(f"Annotation {path}:{line}: the image size must be positive.")
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


def _parse_with_lines(path: Path) -> ET.Element:
    """The root of an xml file; every element keeps its line as an attribute."""
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
        raise ValueError(f"Annotation {path}:{error.lineno}: {reason}.") from error
    return builder.close()


def _number(path: Path, element: ET.Element, tag: str) -> float:
    """The number in a descendant that must be there."""
    text, line = _text(path, element, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"Annotation {path}:{line}: <{tag}> is {text!r}, which is no number.")
    return number


def _text(path: Path, element: ET.Element, tag: str) -> tuple[str, str]:
    """The text and the line of a descendant that must be there."""
    found = element.find(tag)
    text = "" if found is None else (found.text or "").strip()
    if not text:
        inner = element.find(tag.rpartition("/")[0] or ".")
        line = next(e for e in (found, inner, element) if e is not None).get(_LINE)
        raise ValueError(f"Annotation {path}:{line}: <{tag}> is missing or empty.")
    return text, found.get(_LINE)


def _read_record(path: Path, class_ids: dict[str, int], keep_difficult: bool) -> dict:
    """Height, width and annotations of one xml file."""
    (height, width), objects = read_voc_annotation(path)
    annotations = [_annotation(path, obj, class_ids) for obj in objects]
    return {
        "height": height,
        "width": width,
        "annotations": [a for a in annotations if keep_difficult or not a["difficult"]],
    }


def _annotation(path: Path, obj: VOCObject, class_ids: dict[str, int]) -> dict:
    """One object as a detectron2 annotation."""
    where = f"Annotation {path}:{obj.line}"
    if obj.name not in class_ids:
        known = ", ".join(class_ids)
        raise ValueError(f"{where}: class {obj.name!r} is unknown; known are {known}.")
    x1, y1, x2, y2 = obj.corners
    if not (x1 <= x2 and y1 <= y2):
        raise ValueError(
            f"{where}: the box {x1:g}, {y1:g}, {x2:g}, {y2:g} of a {obj.name!r} is empty."
        )
    return {
        "category_id": class_ids[obj.name],
        "bbox": [x1 - 1, y1 - 1, x2, y2],
        "bbox_mode": BoxMode.XYXY_ABS,
        "difficult": obj.difficult,
    }
