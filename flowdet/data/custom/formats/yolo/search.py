"""Finds YOLO datasets without a data file, by the content of text files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowdet.data.custom.formats.base import ALL, SPLITS, EncodingError, read_lines, split_of_path
from flowdet.data.custom.formats.yolo.classes import is_class_file
from flowdet.data.custom.formats.yolo.files import (
    DataFile,
    ImageSource,
    YOLOSource,
    counterparts,
    files_in,
    is_image,
    load_yaml,
)
from flowdet.data.custom.formats.yolo.rows import is_label_file

__all__ = ["pair_folders", "search_splits"]

# names of lists of images
_LISTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def search_splits(folder: Path, files: Sequence[Path]) -> dict[str, YOLOSource] | None:
    """Finds the splits by lists of images, or by the names of the folders of the images.

    Args, returns, raises:
        As `DatasetFormat.search`.
    """
    images, label_folders = pair_folders(folder, files)
    if not label_folders:
        return None
    return _listed_splits(folder, files, label_folders) or _splits_by_folder(
        folder, images, label_folders
    )


def pair_folders(
    folder: Path, files: Sequence[Path]
) -> tuple[dict[Path, set[str]], dict[Path, Path]]:
    """Finds the folders of images, and the folders with their labels.

    Args:
        folder: the folder of the dataset.
        files: the files below it.

    Returns:
        The names of the images in each folder, without suffix; the folder of the labels of each
        folder of images that has labels.

    Raises:
        ValueError: several folders have labels for the same images, or the reverse.
    """
    images: dict[Path, set[str]] = defaultdict(set)
    texts: dict[Path, dict[str, Path]] = defaultdict(dict)
    for file in files:
        if is_image(file):
            images[file.parent].add(file.stem)
        elif file.suffix.lower() == ".txt" and not is_class_file(file):
            texts[file.parent][file.stem] = file
    labels = {
        x: set(stems) for x, stems in texts.items() if any(map(is_label_file, stems.values()))
    }
    matches = {x: _labels_of(x, stems, labels, folder) for x, stems in images.items()}
    pairs = {x: label_folder for x, label_folder in matches.items() if label_folder}
    _check_not_shared(images, pairs, labels)
    return images, pairs


def _check_not_shared(
    images: dict[Path, set[str]], pairs: dict[Path, Path], labels: dict[Path, set[str]]
) -> None:
    """Raises ValueError if images of the same name in two folders have the same label file."""
    owners: dict[Path, Path] = {}
    for folder, label_folder in pairs.items():
        for stem in images[folder] & labels[label_folder]:
            owner = owners.setdefault(label_folder / stem, folder)
            if owner != folder:
                raise ValueError(
                    f"{label_folder / stem}.txt may belong to an image in {owner} or in {folder}: "
                    "put the labels into a folder for each folder of images"
                )


def _labels_of(
    folder: Path, stems: set[str], labels: dict[Path, set[str]], root: Path
) -> Path | None:
    """Returns the folder with the labels of a folder of images; None if there is no such folder.

    Raises:
        ValueError: several folders have labels for these images.
    """
    for usual in counterparts(folder, of_images=True):
        if stems & labels.get(usual, set()):
            return usual
    split = split_of_path(folder, root)
    scores = {}
    for label_folder, names in labels.items():
        own_split = split_of_path(label_folder, root)
        if stems & names and (own_split == split or None in (own_split, split)):
            common = {*label_folder.parts} & {*folder.parts}
            scores[label_folder] = (own_split == split, len(common))
    best = [x for x, score in scores.items() if score == max(scores.values())]
    if len(best) > 1:
        raise ValueError(
            f"{best[0]} and {best[1]} both have YOLO labels for the images in {folder}: name the "
            "folders images/ and labels/"
        )
    return best[0] if best else None


def _listed_splits(
    folder: Path, files: Sequence[Path], label_folders: dict[Path, Path]
) -> dict[str, YOLOSource]:
    """Returns the splits that lists of images such as train.txt define."""
    stems = {file.stem for file in files if is_image(file)}
    lists: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        split = next((x for x in SPLITS if file.stem.lower() in _LISTS[x]), None)
        if split and file.suffix.lower() == ".txt" and _is_list(file, stems):
            lists[split].append(file)
    several = next((paths for paths in lists.values() if len(paths) > 1), None)
    if several:
        raise ValueError(f"{several[0]} and {several[1]} list the images of one split: keep one")
    if "train" not in lists:
        return {}
    names = _names_file(folder)
    return {
        split: YOLOSource(path, split, folder, (ImageSource(path),), names, label_folders)
        for split, (path,) in lists.items()
    }


def _splits_by_folder(
    root: Path,
    images: dict[Path, set[str]],
    label_folders: dict[Path, Path],
) -> dict[str, YOLOSource]:
    """Returns the splits that folders of images are named after, or only `ALL`."""
    by_split: dict[str | None, list[Path]] = defaultdict(list)
    for folder in images:
        by_split[split_of_path(folder, root)].append(folder)
    unnamed = [x for x in by_split.pop(None, []) if x in label_folders]
    if unnamed and "train" in by_split:
        raise ValueError(
            f"{unnamed[0]} has YOLO labels, but belongs to no split, in contrast to "
            f"{by_split['train'][0]}: move its images"
        )
    if unnamed:
        by_split["train" if by_split else ALL] = unnamed
    used = {folder for folders in by_split.values() for folder in folders}
    notes = tuple(
        ("images without labels", str(x), f"the {len(names)} images have no labels: left out")
        for x, names in images.items()
        if x not in used
    )
    data = _names_file(root)
    sources = {
        split: tuple(ImageSource(folder, recursive=False) for folder in folders)
        for split, folders in by_split.items()
    }
    return {
        split: YOLOSource(of_split[0].path, split, root, of_split, data, label_folders, notes)
        for split, of_split in sources.items()
    }


def _names_file(folder: Path) -> DataFile | None:
    """Returns a YAML file that has only the class names."""
    for file in files_in(folder):
        if file.suffix.lower() in (".yaml", ".yml"):
            try:
                data = load_yaml(file)
            except ValueError:
                continue
            if data.get("names") is not None:
                return data
    return None


def _is_list(file: Path, stems: set[str]) -> bool:
    """Whether the first line of a text file is the name of an image, with or without suffix."""
    try:
        lines = read_lines(file)
    except EncodingError:
        return True
    first = next((line.strip() for line in lines if line.strip()), "")
    return is_image(Path(first)) or first.replace("\\", "/").rpartition("/")[2] in stems
