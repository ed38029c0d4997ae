"""Writes datasets in VOC format, and edits their files."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

from tests.cases.case import (
    CONTENT,
    HEIGHT,
    NAMES,
    WIDTH,
    Content,
    write_picture,
    write_text,
)

SIZE_TAG = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"


def voc_xml(file_name: str, objects, names=NAMES) -> str:
    """The annotation of an image; VOC counts corners from 1."""
    parts = [f"<annotation><folder>JPEGImages</folder><filename>{escape(file_name)}</filename>"]
    parts += [SIZE_TAG, *(voc_object(names[index], box) for index, box in objects)]
    return "\n".join([*parts, "</annotation>\n"])


def voc_object(name: str, box, difficult: str = "<difficult>0</difficult>") -> str:
    x1, y1, x2, y2 = box
    corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
    tags = "".join(f"<{tag}>{value:g}</{tag}>" for tag, value in corners.items())
    return f"<object><name>{escape(name)}</name>{difficult}<bndbox>{tags}</bndbox></object>"


def write_voc(
    folder: Path,
    edit=lambda text: text,
    first=lambda text: text,
    *,
    content: Content = CONTENT,
    names=NAMES,
    suffix=".png",
    encoding="utf-8",
    lists=lambda names: "".join(f"{name}\n" for name in names),
    list_encoding="utf-8",
    image="JPEGImages/{name}",
    xml="Annotations/{name}",
    list_file="ImageSets/Main/{split}.txt",
    exif=1,
) -> None:
    """Writes a dataset in VOC layout.

    `edit` changes every xml text, `first` only that of the second image of the training split;
    `lists` gives the text of the list of a split. Without `list_file` there are no lists.
    """
    for split, images in content.items():
        for number, (name, objects) in enumerate(images.items()):
            where = {"split": split, "name": name}
            write_picture(folder / (image.format(**where) + suffix), objects, exif)
            text = edit(voc_xml(Path(name).name + suffix, objects, names))
            if (split, number) == ("train", 1):
                text = first(text)
            data = text if isinstance(text, bytes) else text.encode(encoding)
            path = folder / (xml.format(**where) + ".xml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if list_file:
            path = folder / list_file.format(split=split)
            write_text(path, lists(list(images)), list_encoding)


def voc(edit=lambda text: text, first=lambda text: text, **options):
    """Returns `write_voc` with its arguments, except the folder."""
    return partial(write_voc, edit=edit, first=first, **options)


def pairs(edit=lambda text: text, first=lambda text: text, **options):
    """A folder for each split, with images and xml files side by side."""
    options = {"image": "{split}/{name}", "xml": "{split}/{name}", "list_file": None, **options}
    return voc(edit, first, **options)


def declared(encoding: str):
    """An edit that declares an encoding."""
    return lambda text: f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'


def swap(old: str, new: str):
    """Replaces all occurrences; fails if there is none."""

    def edit(text: str) -> str:
        assert old in text, f"{old!r} is not in the file"
        return text.replace(old, new)

    return edit


def added(new: str):
    """Adds an object to the xml file."""
    return swap("</annotation>", new + "</annotation>")


def boxed(corners: str, name: str = "square") -> str:
    """An object whose bndbox has the four given corners, as text separated by blanks."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, corners.split("|"), strict=True))
    return f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>"


def without(index: int, split: str = "train") -> Content:
    """The standard content without the objects of one image."""
    content = copy.deepcopy(CONTENT)
    content[split][list(content[split])[index]] = []
    return content


def without_image(index: int = 1, split: str = "train") -> Content:
    content = copy.deepcopy(CONTENT)
    del content[split][list(content[split])[index]]
    return content


def one_object_fewer() -> Content:
    content = copy.deepcopy(CONTENT)
    content["train"]["train_1"] = content["train"]["train_1"][1:]
    return content
