"""Writes the repaired copy of a dataset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowdet.data.custom.check import DatasetCheck
from flowdet.data.custom.evaluation_copy import coco_content
from flowdet.data.custom.raw import ClassList
from flowdet.data.detection.voc import write_voc_annotation
from flowdet.temporary_file import check_name

__all__ = ["write_clean"]


def write_clean(checked: DatasetCheck, source: Path, folder: Path) -> None:
    """Writes a dataset without the entries that have problems, and with the repairs.

    A VOC dataset is written in VOC format, any other in COCO format. The image files are copied
    unchanged. If two images have the same name, all
    images keep their folders. The folder is written as a whole or not at all.

    Args:
        checked: the dataset.
        source: its folder.
        folder: the folder to write, which must not exist.

    Raises:
        FileExistsError: `folder` exists.
        OSError: a file cannot be written.
        ValueError: the dataset has no class or no training image, or an image has two annotations
            and the format is VOC.
    """
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists: remove it, or give another --write-clean")
    if not checked.class_names or not checked.records.get("train"):
        raise ValueError(f"{source} has no usable training image: nothing is written to {folder}")
    if checked.evaluator_type == "pascal_voc":
        _check_one_annotation_per_image(checked.records)
    names = _image_names(checked.records, source)
    check_name(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clean-", dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        try:
            _write(checked, names, new)
            new.rename(folder)
        except OSError as error:
            if not error.errno:
                raise
            # a folder that is deleted now would not say where
            path = str(error.filename2 or error.filename or new).replace(str(new), str(folder), 1)
            raise OSError(error.errno, error.strerror, path) from error


def _write(checked: DatasetCheck, names: dict[str, str], folder: Path) -> None:
    """Writes the images under their new names, the annotations and the classes."""
    images = folder / ("JPEGImages" if checked.evaluator_type == "pascal_voc" else "images")
    for file, name in names.items():
        target = images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for split, records in checked.records.items():
        if checked.evaluator_type == "pascal_voc":
            _write_voc(folder, split, records, names, checked.classes, split in checked.annotated)
        else:
            _write_coco(folder, split, records, names, checked.classes)
    if checked.evaluator_type == "pascal_voc":
        text = "".join(f"{name}\n" for name in checked.class_names)
        (folder / "classes.txt").write_text(text, encoding="utf-8")


def _check_one_annotation_per_image(records: dict[str, list[dict]]) -> None:
    """Raises ValueError if an image is listed twice with different objects."""
    annotations: dict[str, list[dict]] = {}
    for record in (r for split_records in records.values() for r in split_records):
        file, objects = record["file_name"], record["annotations"]
        if annotations.setdefault(file, objects) != objects:
            raise ValueError(
                f"{file} is in two splits or listed twice with different objects, and a VOC "
                "dataset has one annotation per image: remove one of the entries"
            )


def _image_names(records: dict[str, list[dict]], source: Path) -> dict[str, str]:
    """Returns a name by image file: the file name, or if several files have it, the path."""
    files = [r["file_name"] for split_records in records.values() for r in split_records]
    files = list(dict.fromkeys(files))
    names = {file: _plain(Path(file).name) for file in files}
    if not _are_distinct(names):
        root = os.path.commonpath([os.path.abspath(path) for path in (source, *files)])
        names = {file: _plain(Path(os.path.relpath(file, root)).as_posix()) for file in files}
    if not _are_distinct(names):
        raise ValueError(f"{source} has images with the same name in other letter case: rename one")
    return names


def _are_distinct(names: dict[str, str]) -> bool:
    # VOC pairs images and annotations by the name without suffix
    stems = {Path(name).with_suffix("").as_posix().casefold() for name in names.values()}
    return len(stems) == len(names)


def _plain(name: str) -> str:
    """Returns a name whose characters can be written in UTF-8 and in xml."""
    return "".join(x if x.isprintable() else "_" for x in name)


def _write_voc(
    folder: Path,
    split: str,
    records: Sequence[dict],
    names: dict[str, str],
    classes: ClassList,
    annotated: bool,
) -> None:
    ids = []
    for record in records:
        name = Path(names[record["file_name"]])
        image_id, annotations = name.with_suffix("").as_posix(), record["annotations"]
        ids.append(image_id)
        if not annotated:
            continue
        path = folder / "Annotations" / f"{image_id}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_voc_annotation(
            path,
            name.name,
            (record["height"], record["width"]),
            np.array([a["bbox"] for a in annotations]),
            [classes.names[a["category_id"]] for a in annotations],
            [a["difficult"] for a in annotations],
        )
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")


def _write_coco(
    folder: Path,
    split: str,
    records: Sequence[dict],
    names: dict[str, str],
    classes: ClassList,
) -> None:
    records = [{**record, "file_name": names[record["file_name"]]} for record in records]
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content, _ = coco_content(records, classes)
    path.write_text(json.dumps(content), encoding="utf-8")
