"""Helpers of formats whose files list images by name: their splits, folders and ids."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import ALL, SPLITS, parents, split_of, split_of_path
from flowdet.data.custom.image_finder import ImageFinder, walk
from flowdet.data.image_files import image_suffixes

__all__ = [
    "assign_splits",
    "base_name",
    "file_per_split",
    "image_folders",
    "image_ids",
    "report_unlisted",
    "splits_in",
]


def file_per_split(files: Iterable[Path], folder: Path, kind: str) -> dict[str, Path]:
    """Returns the file of each split, or only a file for `ALL`.

    Args:
        files: the files with annotations.
        folder: the folder of the dataset. The names of a file and of its folders tell its split.
        kind: the kind of the files, for the message.

    Raises:
        ValueError: there are several files for a split, or files that name no split next to files
            that do.
    """
    files = list(files)
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of_path(file, folder), []).append(file)
    for split, matches in by_split.items():
        if len(matches) > 1 or (split is None and len(by_split) > 1):
            names = ", ".join(str(file.relative_to(folder)) for file in files[:4])
            raise ValueError(
                f"{folder} has several {kind} files for {split or 'an unnamed split'}: {names}; "
                "keep one for each split"
            )
    return {split or ALL: matches[0] for split, matches in by_split.items()}


def assign_splits(labels: Sequence[str], names: Sequence[str], folder: Path) -> list[str | None]:
    """Assigns the images of a file to splits.

    Args:
        labels: the split that the file gives for each image, such as "Train"; "" for none.
        names: the name of each image, with or without folders.
        folder: the folder of the dataset.

    Returns:
        The split of each image: by its label if any label names a split, else by the folders of
        the images if they name a split for every image, and at least two splits. None for an image
        without a split.
    """
    known = {label: split_of(label) for label in {*labels}}
    if any(known.values()):
        return [known[label] for label in labels]
    by_name = [_split_of_folders(name) for name in names]
    if not _is_division(by_name):
        by_name = _splits_of_files(names, folder)
    return by_name if _is_division(by_name) else [None] * len(names)


def splits_in(assigned: Iterable[str | None]) -> list[str]:
    """Returns the splits of the images of a file; only `ALL` if no image has a split."""
    present = set(assigned)
    return [split for split in SPLITS if split in present] or [ALL]


def image_folders(folder: Path, file: Path, split: str) -> tuple[Path, ...]:
    """Lists the folders that may hold the images of a file, the most probable one first.

    Args:
        folder: the folder of the dataset.
        file: the file that lists the images.
        split: the split of the images, or `ALL`.
    """
    roots = [file.parent, file.parent / "images", folder / "images", folder]
    roots = [path for path in dict.fromkeys(roots) if path.is_dir()]
    named = [
        path
        for root in roots
        for path in sorted(root.iterdir())
        if path.is_dir() and split_of(path.name) == split
    ]
    all_images = (path for path in walk(folder) if path.suffix.lower() in image_suffixes())
    # the only folder with images may have any name
    others = parents(all_images)
    if len(others) > 1 or any(split_of_path(x, folder) not in (None, split) for x in others):
        others = ()
    return tuple(dict.fromkeys([*named, *roots, *others]))


def image_ids(paths: Sequence[Path], folder: Path) -> list[str]:
    """Returns a different id for each of different files: its name, or its path in the folder.

    Suffixes are left out if the ids are different without them.
    """
    relative = [Path(os.path.relpath(path, folder)) for path in paths]
    stems = [path.stem for path in relative]
    for ids in (stems, [path.with_suffix("").as_posix() for path in relative]):
        if len(set(ids)) == len(ids):
            return ids
    return [path.as_posix() for path in relative]


def report_unlisted(
    images: ImageFinder, paths: Iterable[Path], names: Iterable[str], file: str, findings: Findings
) -> None:
    """Reports the images that lie next to listed images, but are not listed.

    Args:
        images: the images of the dataset.
        paths: the images that are listed and exist.
        names: all names that are listed, also in other splits.
        file: what lists them, for the message.
        findings: collects the problems "image without annotation".
    """
    listed = {base_name(name).casefold() for name in names}
    used = {os.path.realpath(path) for path in paths}
    folders = {os.path.dirname(path) for path in used}
    for path in images.images:
        real = os.path.realpath(path)
        is_listed = real in used or base_name(path.name).casefold() in listed
        if os.path.dirname(real) in folders and not is_listed:
            text = f"{file} does not list this image: annotate it or remove it"
            findings.problem("image without annotation", path, text)


def base_name(name: str) -> str:
    """Returns the last part of a path of any operating system."""
    return name.replace("\\", "/").rpartition("/")[2].strip()


def _is_division(splits: Sequence[str | None]) -> bool:
    return all(splits) and len(set(splits)) > 1


def _split_of_folders(name: str) -> str | None:
    return _split_of_folder(name.replace("\\", "/").rpartition("/")[0])


@cache
def _split_of_folder(path: str) -> str | None:
    return next((split for part in reversed(path.split("/")) if (split := split_of(part))), None)


def _splits_of_files(names: Sequence[str], folder: Path) -> list[str | None]:
    """Returns the splits by the folders of the files that have these names."""
    files = [path for path in walk(folder) if path.suffix.lower() in image_suffixes()]
    counts = Counter(path.name for path in files)
    folders = {parent: split_of_path(parent, folder) for parent in parents(files)}
    splits = {path.name: folders[path.parent] for path in files}
    bases = map(base_name, names)
    return [splits[base] if counts[base] == 1 else None for base in bases]
