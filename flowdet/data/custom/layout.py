"""Recognizes the layout of a dataset folder and finds the files of each split.

`find_layout` tries the formats in turn: VOC (`ImageSets/Main/` exists), COCO (a json file in
`annotations/` or in the folder itself names a split), a folder per split in either format. The
docstring of the package says how to add a format.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SPLITS", "COCOSplit", "Layout", "VOCSplit", "find_layout"]

SPLITS = ("train", "val", "test")
# names of the splits in folders and lists, the usual name first
_NAMES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
# COCO files with annotations other than boxes
_OTHER_COCO = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
_CLASS_FILES = ("classes.txt", "labels.txt")

_ACCEPTED_LAYOUTS = (
    "Accepted layouts: VOC (Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt); COCO "
    "(annotations/*train*.json and *val*.json, next to the folders of the images); or folders "
    "train/ and val/ that each contain images and either one COCO .json file or VOC .xml files"
)


@dataclass(frozen=True)
class VOCSplit:
    """The files of a split in VOC format.

    Attributes:
        annotations: folders with .xml files.
        images: folders with images.
        listing: file with one image id per line; None stands for all files in the folders.
    """

    annotations: tuple[Path, ...]
    images: tuple[Path, ...]
    listing: Path | None = None

    @property
    def source(self) -> Path:
        """The path to name in a message about the whole split."""
        return self.listing or self.annotations[0]


@dataclass(frozen=True)
class COCOSplit:
    """The files of a split in COCO format.

    Attributes:
        json_file: the file with the annotations.
        images: candidates for the folder of the images; one of them contains all images.
    """

    json_file: Path
    images: tuple[Path, ...]

    @property
    def source(self) -> Path:
        """The path to name in a message about the whole split."""
        return self.json_file


@dataclass(frozen=True)
class Layout:
    """The format of a dataset and the files of its splits.

    Attributes:
        kind: detectron2's `evaluator_type`, "pascal_voc" or "coco".
        splits: the splits by name, see `SPLITS`.
        class_file: text file with one class name per line; None if there is no such file.
    """

    kind: str
    splits: dict[str, VOCSplit | COCOSplit] = field(repr=False)
    class_file: Path | None = None


def find_layout(folder: Path) -> Layout:
    """Recognizes the layout of the dataset in a folder. No annotation is read.

    Args:
        folder: the folder of the dataset.

    Returns:
        The format and the files of the splits: "train", and "val" or "test" or both.

    Raises:
        FileNotFoundError: the folder does not exist, or the dataset lacks a split.
        ValueError: the layout is not an accepted one, or is ambiguous.
    """
    if not folder.is_dir():
        base = "" if folder.is_absolute() else f", relative to {Path.cwd()}"
        raise FileNotFoundError(f"there is no folder {folder} (--data, DATASETS.PATH){base}")
    if (folder / "ImageSets" / "Main").is_dir():
        layout = Layout("pascal_voc", _voc_splits(folder), _class_file(folder))
    elif splits := _coco_splits(folder):
        layout = Layout("coco", splits)
    else:
        layout = _folder_per_split(folder)
    _check_splits(folder, layout)
    return layout


def _check_splits(folder: Path, layout: Layout) -> None:
    """Raises FileNotFoundError unless there are a training and an evaluation split."""
    missing = [] if "train" in layout.splits else ["train"]
    missing += [] if {"val", "test"} & set(layout.splits) else ["val (or test)"]
    if missing:
        sources = ", ".join(str(split.source) for split in layout.splits.values()) or "none"
        raise FileNotFoundError(
            f"dataset {folder} lacks a split: {' and '.join(missing)}; it has: {sources}. "
            f"{_ACCEPTED_LAYOUTS}"
        )


def _voc_splits(folder: Path) -> dict[str, VOCSplit]:
    lists = folder / "ImageSets" / "Main"
    folders = ((folder / "Annotations",), (folder / "JPEGImages",))
    for (path,) in folders:
        if not path.is_dir():
            raise FileNotFoundError(f"there is {lists}, but no {path}: VOC layout needs both")
    listings = {split: _first(lists / f"{n}.txt" for n in _NAMES[split]) for split in SPLITS}
    return {split: VOCSplit(*folders, listing) for split, listing in listings.items() if listing}


def _coco_splits(folder: Path) -> dict[str, COCOSplit]:
    """Finds the splits in `folder`/annotations/*.json, else in *.json in the folder itself."""
    for parent in (folder / "annotations", folder):
        files = [f for f in sorted(parent.glob("*.json")) if not f.name.startswith(_OTHER_COCO)]
        json_files = {split: _json_of(files, split) for split in SPLITS}
        splits = {
            split: COCOSplit(file, _coco_image_folders(folder, split, file))
            for split, file in json_files.items()
            if file
        }
        if splits:
            return splits
    return {}


def _json_of(files: list[Path], split: str) -> Path | None:
    """Finds the only file with the split in its name; `instances_*.json` has precedence."""
    matches = [f for f in files if any(name in f.stem.lower() for name in _NAMES[split])]
    # "trainval" and "validation" contain shorter names of splits
    if split != "train":
        matches = [f for f in matches if "train" not in f.stem.lower()]
    matches = [f for f in matches if f.name.startswith("instances_")] or matches
    if len(matches) > 1:
        names = ", ".join(f.name for f in matches)
        raise ValueError(
            f"{matches[0].parent} has several .json files for {split}: {names}; keep one of them"
        )
    return matches[0] if matches else None


def _coco_image_folders(folder: Path, split: str, json_file: Path) -> tuple[Path, ...]:
    """Lists the existing folders that may hold the images of a json file.

    For instances_train2017.json these are train2017/, images/train2017/, train/ and so on.
    """
    names = (json_file.stem.removeprefix("instances_"), *_NAMES[split])
    roots = (folder, folder / "images")
    candidates = [root / name for name in dict.fromkeys(names) for root in roots]
    return tuple(p for p in [*candidates, *reversed(roots)] if p.is_dir())


def _folder_per_split(folder: Path) -> Layout:
    """Recognizes a folder per split, each with images and one json file or xml files."""
    matches = {split: _first(folder / name for name in _NAMES[split]) for split in SPLITS}
    folders = {split: path for split, path in matches.items() if path}
    if not folders:
        entries = sorted(path.name for path in folder.iterdir())
        listed = ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "") or "nothing"
        raise ValueError(f"{folder} contains no dataset, but {listed}. {_ACCEPTED_LAYOUTS}")
    splits = {split: _split_in(path) for split, path in folders.items()}
    kinds = {type(split) for split in splits.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"{folder}: some splits have a COCO .json file, others VOC .xml files; use one format"
        )
    kind = "coco" if kinds == {COCOSplit} else "pascal_voc"
    return Layout(kind, splits, _class_file(folder) if kind == "pascal_voc" else None)


def _split_in(folder: Path) -> VOCSplit | COCOSplit:
    """Finds the annotations and images of a split in its folder and the folders in it."""
    folders = (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
    json_files = [file for parent in folders for file in sorted(parent.glob("*.json"))]
    has_xml = any(next(parent.glob("*.xml"), None) for parent in folders)
    if len(json_files) == 1 and not has_xml:
        return COCOSplit(json_files[0], folders)
    if has_xml and not json_files:
        return VOCSplit(folders, folders)
    if json_files:
        names = ", ".join(str(file.relative_to(folder)) for file in json_files[:3])
        contents = ".json and .xml files" if has_xml else f"several .json files ({names}, ...)"
        raise ValueError(
            f"{folder} contains {contents}: give either one COCO .json file or VOC .xml files"
        )
    raise FileNotFoundError(
        f"{folder} contains no annotations: neither it nor the folders in it have a COCO .json "
        "file or VOC .xml files"
    )


def _class_file(folder: Path) -> Path | None:
    return _first(folder / name for name in _CLASS_FILES)


def _first(paths: Iterable[Path]) -> Path | None:
    """Returns the first path that exists."""
    return next((path for path in paths if path.exists()), None)
