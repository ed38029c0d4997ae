"""Recognizes the format of a dataset folder and finds the files of each split.

Every format is first asked for its usual file names. If no folder has them, the formats search the
folder for files with their content, under any names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowdet.data.custom.formats import FORMAT_REGISTRY, DatasetFormat
from flowdet.data.custom.formats.base import ALL, Source
from flowdet.data.custom.image_finder import is_hidden, walk
from flowdet.data.image_files import SPECIAL_FILE, image_suffixes, is_special_file
from flowdet.registry import registered

__all__ = ["Layout", "find_layout"]

# words in file names of layouts that are not read, and what to do with them
_UNREADABLE = {
    ".tfrecord": "TFRecord files: export the dataset as COCO or VOC",
    ".record": "TFRecord files: export the dataset as COCO or VOC",
    ".parquet": "parquet files: export the dataset as COCO",
    ".mat": "Matlab files: convert them to COCO",
    ".zip": "an archive: unpack it",
    ".tar": "an archive: unpack it",
    ".gz": "an archive: unpack it",
}
# the format whose files usually have a suffix, the most telling suffix first
_USUAL_SUFFIXES = {
    ".xml": "VOC",
    ".json": "COCO",
    ".csv": "CSV",
    ".data": "Darknet",
    ".yaml": "YOLO",
    ".yml": "YOLO",
    ".txt": "YOLO",
}


@dataclass(frozen=True)
class Layout:
    """The format of a dataset and the files of its splits.

    Attributes:
        format: reads the splits.
        splits: the files of the splits "train", "val" and "test", or of `ALL`.
    """

    format: DatasetFormat
    splits: Mapping[str, Source] = field(repr=False)


def find_layout(folder: Path, format_name: str = "") -> Layout:
    """Recognizes the layout of the dataset in a folder.

    Args:
        folder: the folder of the dataset. If it contains only another folder, that one is taken.
        format_name: `DATASETS.FORMAT`, a name in `FORMAT_REGISTRY`; "" tries all formats.

    Returns:
        The format, and the files of the training split or of the undivided dataset, and of the
        other splits.

    Raises:
        FileNotFoundError: the folder does not exist, or the dataset has no training split.
        OSError: a folder in it cannot be read.
        ValueError: no format, or more than one, can read the folder, or it contains a pipe or a
            device, which readers would wait for.
    """
    if not os.path.isdir(folder):
        base = "" if folder.is_absolute() else f", relative to {Path.cwd()}"
        raise FileNotFoundError(f"there is no folder {folder} (--data, DATASETS.PATH){base}")
    formats = _formats(format_name)
    inner = _single_folder(folder)
    special = next((path for path in walk(inner) if is_special_file(path)), None)
    if special:
        raise ValueError(f"{special} cannot be read: {SPECIAL_FILE}: remove it from the dataset")
    layout = _by_usual_names(inner, formats) or _by_content(inner, formats)
    if not _has_training_images(layout):
        sources = ", ".join(str(source.path) for source in layout.splits.values())
        raise FileNotFoundError(
            f"dataset {folder} lacks a split: train; it has: {sources}. The layout of "
            f"{layout.format.name}: {layout.format.layout} (docs/custom_datasets.md)"
        )
    return layout


def _has_training_images(layout: Layout) -> bool:
    return bool({"train", ALL} & {*layout.splits})


def _formats(name: str) -> list[DatasetFormat]:
    if name:
        return [registered(FORMAT_REGISTRY, name, "DATASETS.FORMAT")()]
    return [format_class() for _, format_class in FORMAT_REGISTRY]


def _single_folder(folder: Path) -> Path:
    """Returns the folder in an unpacked archive that has a single folder at its top."""
    while True:
        entries = [path for path in folder.iterdir() if not is_hidden(path.name)]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _by_usual_names(folder: Path, formats: list[DatasetFormat]) -> Layout | None:
    layouts, errors = [], []
    for dataset_format in formats:
        try:
            splits = dataset_format.find(folder)
        except (OSError, ValueError) as error:
            errors.append(error)
            continue
        if splits:
            layouts.append(Layout(dataset_format, splits))
    if not layouts and errors:
        raise errors[0]
    # a file of test images alone may belong to another format
    return _only(folder, [layout for layout in layouts if _has_training_images(layout)])


def _by_content(folder: Path, formats: list[DatasetFormat]) -> Layout:
    files = list(walk(folder))
    layouts = [
        Layout(dataset_format, splits)
        for dataset_format in formats
        if (splits := dataset_format.search(folder, files))
    ]
    complete = [layout for layout in layouts if _has_training_images(layout)]
    layout = _only(folder, complete or layouts)
    if layout is None:
        raise ValueError(_unknown_layout(folder, files))
    return layout


def _only(folder: Path, layouts: list[Layout]) -> Layout | None:
    """Returns the only layout; None if there is none. Raises ValueError if there are several."""
    if len(layouts) > 1:
        listed = " and ".join(f"{x.format.name} ({_example(x)})" for x in layouts)
        raise ValueError(
            f"{folder} can be read as {listed}: set DATASETS.FORMAT to "
            f"{' or '.join(x.format.name for x in layouts)}"
        )
    return layouts[0] if layouts else None


def _example(layout: Layout) -> str:
    return ", ".join(str(source.path) for source in list(layout.splits.values())[:2])


def _unknown_layout(folder: Path, files: list[Path]) -> str:
    entries = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    listed = ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "") or "nothing"
    suffixes = {path.suffix.lower() for path in files}
    parts = [f"{folder} contains no dataset, but {listed}"]
    if known := sorted({_UNREADABLE[suffix] for suffix in suffixes if suffix in _UNREADABLE}):
        parts.append(f"flowdet does not read {', '.join(known)}")
    nearest = next((name for suffix, name in _USUAL_SUFFIXES.items() if suffix in suffixes), None)
    if nearest:
        layout = FORMAT_REGISTRY.get(nearest).layout
        parts.append(f"The nearest layout is that of {nearest}: {layout}")
    elif suffixes & image_suffixes():
        parts.append("It has images, but no annotations")
    names = ", ".join(name for name, _ in FORMAT_REGISTRY)
    parts.append(f"The formats that flowdet reads are {names} (docs/custom_datasets.md)")
    return ". ".join(parts)
