"""Finding out how a dataset is laid out, by what is in its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SPLITS", "COCOSplit", "Layout", "VOCSplit", "find_layout"]

SPLITS = ("train", "val", "test")
# what splits are called in folders and lists, the usual name first
_NAMES = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
# files beside COCO's boxes that hold something else
_OTHER_COCO = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
_CLASS_FILES = ("classes.txt", "labels.txt")

LOOKED_FOR = (
    "a folder in VOC layout (Annotations/, JPEGImages/, ImageSets/Main/train.txt and val.txt), "
    "in COCO layout (annotations/*train*.json and *val*.json, beside the folders of the images), "
    "or with train/ and val/ that each hold images and either one COCO .json or VOC .xml files"
)


@dataclass(frozen=True)
class VOCSplit:
    """Folders of xml files and images, and the list of ids; None stands for all in them."""

    annotations: tuple[Path, ...]
    images: tuple[Path, ...]
    listing: Path | None = None

    @property
    def place(self) -> Path:
        """What to name when the split as a whole is wrong."""
        return self.listing or self.annotations[0]


@dataclass(frozen=True)
class COCOSplit:
    """A json file, and folders in one of which its images are."""

    json_file: Path
    images: tuple[Path, ...]

    @property
    def place(self) -> Path:
        return self.json_file


@dataclass(frozen=True)
class Layout:
    """kind: the `evaluator_type` of detectron2, "pascal_voc" or "coco". splits: by their name of
    `SPLITS`. class_file: one class name per line, if there is such a file."""

    kind: str
    splits: dict[str, VOCSplit | COCOSplit] = field(repr=False)
    class_file: Path | None = None


def find_layout(folder: Path) -> Layout:
    """How the dataset in `folder` is laid out.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a split.
        ValueError: it is none of the known layouts, or could be several.
    """
    if not folder.is_dir():
        where = "" if folder.is_absolute() else f", seen from {Path.cwd()}"
        raise FileNotFoundError(f"there is no folder {folder} (--data, DATASETS.PATH){where}")
    if (folder / "ImageSets" / "Main").is_dir():
        layout = Layout("pascal_voc", _voc_splits(folder), _class_file(folder))
    elif splits := _coco_splits(folder):
        layout = Layout("coco", splits)
    else:
        layout = _plain_layout(folder)
    _check_splits(folder, layout)
    return layout


def _check_splits(folder: Path, layout: Layout) -> None:
    missing = [] if "train" in layout.splits else ["train"]
    missing += [] if {"val", "test"} & set(layout.splits) else ["val (or test)"]
    if missing:
        found = ", ".join(str(split.place) for split in layout.splits.values()) or "none"
        raise FileNotFoundError(
            f"dataset {folder} lacks a split: {' and '.join(missing)}; found: {found}. Looked for "
            f"{LOOKED_FOR}"
        )


def _voc_splits(folder: Path) -> dict[str, VOCSplit]:
    lists = folder / "ImageSets" / "Main"
    folders = ((folder / "Annotations",), (folder / "JPEGImages",))
    for (path,) in folders:
        if not path.is_dir():
            raise FileNotFoundError(f"{lists} is there, but no {path}, as VOC layout needs it")
    found = {split: _first(lists / f"{n}.txt" for n in _NAMES[split]) for split in SPLITS}
    return {split: VOCSplit(*folders, listing) for split, listing in found.items() if listing}


def _coco_splits(folder: Path) -> dict[str, COCOSplit]:
    """From `folder`/annotations/*.json, or *.json in the folder itself."""
    for place in (folder / "annotations", folder):
        files = [f for f in sorted(place.glob("*.json")) if not f.name.startswith(_OTHER_COCO)]
        found = {split: _json_of(files, split) for split in SPLITS}
        splits = {
            split: COCOSplit(file, _coco_image_folders(folder, split, file))
            for split, file in found.items()
            if file
        }
        if splits:
            return splits
    return {}


def _json_of(files: list[Path], split: str) -> Path | None:
    """The one file that has a split in its name; `instances_*.json` before others."""
    found = [f for f in files if any(name in f.stem.lower() for name in _NAMES[split])]
    # "trainval" and "validation" hold shorter names of splits
    if split != "train":
        found = [f for f in found if "train" not in f.stem.lower()]
    found = [f for f in found if f.name.startswith("instances_")] or found
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise ValueError(f"{found[0].parent} has several .json files for {split}: {names}")
    return found[0] if found else None


def _coco_image_folders(folder: Path, split: str, json_file: Path) -> tuple[Path, ...]:
    """Where the images of a json file may be: train2017 for instances_train2017.json, ..."""
    names = (json_file.stem.removeprefix("instances_"), *_NAMES[split])
    roots = (folder, folder / "images")
    places = [root / name for name in dict.fromkeys(names) for root in roots]
    return tuple(p for p in [*places, *reversed(roots)] if p.is_dir())


def _plain_layout(folder: Path) -> Layout:
    """A folder per split, each with images and one json file or xml files."""
    found = {split: _first(folder / name for name in _NAMES[split]) for split in SPLITS}
    folders = {split: path for split, path in found.items() if path}
    if not folders:
        there = sorted(path.name for path in folder.iterdir())
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "nothing"
        raise ValueError(f"{folder} holds no dataset, but {listed}. Looked for {LOOKED_FOR}")
    splits = {split: _plain_split(path) for split, path in folders.items()}
    kinds = {type(split) for split in splits.values()}
    if len(kinds) > 1:
        raise ValueError(f"{folder}: some splits have a COCO .json file, others VOC .xml files")
    kind = "coco" if kinds == {COCOSplit} else "pascal_voc"
    return Layout(kind, splits, _class_file(folder) if kind == "pascal_voc" else None)


def _plain_split(folder: Path) -> VOCSplit | COCOSplit:
    folders = (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
    json_files = [file for place in folders for file in sorted(place.glob("*.json"))]
    has_xml = any(next(place.glob("*.xml"), None) for place in folders)
    if len(json_files) == 1 and not has_xml:
        return COCOSplit(json_files[0], folders)
    if has_xml and not json_files:
        return VOCSplit(folders, folders)
    if json_files:
        names = ", ".join(str(file.relative_to(folder)) for file in json_files[:3])
        wrong = f"several .json files ({names}, ...)" if not has_xml else ".json and .xml files"
        raise ValueError(f"{folder} holds {wrong}: give one COCO .json file, or VOC .xml files")
    raise FileNotFoundError(
        f"{folder} holds no annotations: neither one COCO .json file nor VOC .xml files, in it or "
        "in a folder in it"
    )


def _class_file(folder: Path) -> Path | None:
    return _first(folder / name for name in _CLASS_FILES)


def _first(paths) -> Path | None:
    """The first path that exists."""
    return next((path for path in paths if path.exists()), None)
