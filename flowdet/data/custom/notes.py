"""Sentences about facts in a dataset that are allowed but may be unintended."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowdet.data.custom.findings import check_command, one_line
from flowdet.data.custom.raw import ClassList
from flowdet.data.image_files import image_suffixes

__all__ = ["dataset_notes", "split_notes"]


def dataset_notes(records: Mapping[str, Sequence[dict]], classes: ClassList) -> list[str]:
    """Returns notes that also a training logs: on classes, and on images in a single split.

    Args:
        records: dataset dicts by split.
        classes: the classes of the dataset.
    """
    notes = [*_similar_classes(classes.names), *_supercategories(records, classes)]
    for split, split_records in records.items():
        notes += _files_listed_twice(split, split_records) + _orientations(split, split_records)
        notes += _objects_listed_twice(split, split_records)
    return [one_line(note) for note in notes]


def split_notes(records: Mapping[str, Sequence[dict]], names: Sequence[str]) -> list[str]:
    """Returns notes on the splits: shared and unused images, and classes without objects.

    Args:
        records: dataset dicts by split.
        names: the class names by class index.
    """
    notes = [*_shared_images(records), *_unlisted_images(records)]
    for split, split_records in records.items():
        used = {a["category_id"] for record in split_records for a in record["annotations"]}
        absent = [name for index, name in enumerate(names) if index not in used]
        if absent and used:
            notes.append(f"{split} has no object of {', '.join(absent)}")
    return [one_line(note) for note in notes]


def _similar_classes(names: Sequence[str]) -> list[str]:
    """Returns notes on class names that differ only in letter case or blanks."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = (
            "".join(unicodedata.normalize("NFC", name).casefold().split())
            .replace("_", "")
            .replace("-", "")
        )
        groups.setdefault(key, []).append(name)
    return [
        f"the class names {' and '.join(map(repr, group))} differ only in letter case, blanks, "
        "hyphens, underscores or the Unicode form: they are different classes"
        for group in groups.values()
        if len(group) > 1
    ]


def _supercategories(records: Mapping[str, Sequence[dict]], classes: ClassList) -> list[str]:
    groups = {category.supercategory for category in classes.categories}
    used = {a["category_id"] for rows in records.values() for r in rows for a in r["annotations"]}
    return [
        f"class {name!r} is the supercategory of other classes and has no object: remove it from "
        "the categories, unless objects of it will follow"
        for index, name in enumerate(classes.names)
        if name in groups and index not in used
    ]


def _files_listed_twice(split: str, records: Sequence[dict]) -> list[str]:
    counts = Counter(os.path.realpath(record["file_name"]) for record in records)
    twice = [file for file, count in counts.items() if count > 1]
    if not twice:
        return []
    return [
        f"{_count(len(twice), 'file')} of {split} with more than one image id, e.g. {twice[0]}: "
        "the objects of one id are background for the other; merge the ids"
    ]


def _objects_listed_twice(split: str, records: Sequence[dict]) -> list[str]:
    counts = {
        record["file_name"]: len(boxes) - len(set(boxes))
        for record in records
        if (boxes := [(a["category_id"], *a["bbox"]) for a in record["annotations"]])
    }
    files = [file for file, count in counts.items() if count]
    if not files:
        return []
    return [
        f"{_count(sum(counts.values()), 'object')} of {split} with the class and the box of "
        f"another object of the same image, e.g. in {files[0]}"
    ]


def _orientations(split: str, records: Sequence[dict]) -> list[str]:
    rotated = [record["file_name"] for record in records if "orientation" in record]
    if not rotated:
        return []
    return [
        f"{_count(len(rotated), 'image')} of {split} rotated or mirrored by an orientation in the "
        f"EXIF data, e.g. {rotated[0]}: flowdet reads the upright picture; boxes that were drawn "
        f"in the stored picture are in the wrong place (look at the sheet of {check_command()})"
    ]


def _shared_images(records: Mapping[str, Sequence[dict]]) -> list[str]:
    """Returns notes on pairs of splits that have images in common."""
    files = {split: {r["file_name"] for r in rows} for split, rows in records.items()}
    pairs = [(a, b) for a in files for b in files if a < b and files[a] & files[b]]
    return [f"{len(files[a] & files[b])} images are in both {a} and {b}" for a, b in pairs]


def _unlisted_images(records: Mapping[str, Sequence[dict]]) -> list[str]:
    """Returns notes on images in the folders of the splits that belong to no split."""
    used = {record["file_name"] for rows in records.values() for record in rows}
    notes = []
    for folder in sorted({str(Path(name).parent) for name in used}):
        images = [p for p in Path(folder).iterdir() if p.suffix.lower() in image_suffixes()]
        unused = sorted(p.name for p in images if str(p) not in used and p.name[0] != ".")
        if unused:
            notes.append(f"{len(unused)} images in {folder} are in no split, e.g. {unused[0]}")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
