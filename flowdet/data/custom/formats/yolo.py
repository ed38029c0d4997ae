"""YOLO: one txt file per image, with a data.yaml (ultralytics, Roboflow) or without."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    SPLITS,
    DatasetFormat,
    EncodingError,
    read_text,
    split_of_path,
)
from flowdet.data.custom.formats.yolo_classes import is_class_file
from flowdet.data.custom.formats.yolo_files import (
    DataFile,
    ImageSource,
    YOLOSource,
    counterparts,
    files_in,
    is_darknet_file,
    is_data_file,
    is_image,
    load_yaml,
    splits_of,
)
from flowdet.data.custom.formats.yolo_reader import read_split
from flowdet.data.custom.formats.yolo_rows import is_label_file
from flowdet.data.custom.raw import RawSplit

__all__ = ["YOLO", "listed_splits"]

# names of lists of images, besides those of the splits
_LISTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@FORMAT_REGISTRY.register()
class YOLO(DatasetFormat):
    layout = "data.yaml, images/train/, images/val/ and labels/train/*.txt, labels/val/*.txt"

    def find(self, folder: Path) -> dict[str, YOLOSource] | None:
        data = _data_file([x for x in files_in(folder) if is_data_file(x)])
        return splits_of(data, folder) if data else None

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, YOLOSource] | None:
        if data := _data_file([x for x in files if is_data_file(x)]):
            return splits_of(data, folder)
        if any(map(is_darknet_file, files)):
            return None
        folders = _image_folders(files)
        label_folders = _label_folders(folders, files, folder)
        if not label_folders:
            return None
        unusual = {x: y for x, y in label_folders.items() if y not in counterparts(x, True)}
        return listed_splits(folder, files, unusual) or _splits_by_folder(
            folder, folders, label_folders, unusual
        )

    def read(self, source: YOLOSource, findings: Findings) -> RawSplit:
        return read_split(source, findings)


def listed_splits(
    folder: Path, files: Sequence[Path], label_folders: dict[Path, Path]
) -> dict[str, YOLOSource]:
    """Returns the splits that lists of images such as train.txt define.

    Args:
        folder: the folder of the dataset.
        files: the files below it.
        label_folders: see `YOLOSource`.
    """
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
    return {
        split: YOLOSource(path, split, folder, (ImageSource(path),), label_folders=label_folders)
        for split, (path,) in lists.items()
    }


def _data_file(files: Sequence[Path]) -> DataFile | None:
    """Loads the data.yaml that is nearest to the folder of the dataset."""
    if not files:
        return None
    depth = min(len(file.parts) for file in files)
    nearest = [file for file in files if len(file.parts) == depth]
    data = [load_yaml(file) for file in nearest]
    different = next((x for x in data[1:] if x.content != data[0].content), None)
    if different:
        raise ValueError(
            f"{data[0].path} and {different.path} both describe a YOLO dataset: keep one of them"
        )
    return data[0]


def _image_folders(files: Sequence[Path]) -> dict[Path, set[str]]:
    """Returns the names of the images in each folder, without suffix."""
    folders: dict[Path, set[str]] = defaultdict(set)
    for file in files:
        if is_image(file):
            folders[file.parent].add(file.stem)
    return folders


def _label_folders(
    images: dict[Path, set[str]], files: Sequence[Path], root: Path
) -> dict[Path, Path]:
    """Returns the folder of the labels of each folder of images that has labels."""
    texts: dict[Path, dict[str, Path]] = defaultdict(dict)
    for file in files:
        if file.suffix.lower() == ".txt" and not is_class_file(file):
            texts[file.parent][file.stem] = file
    labels = {
        x: set(stems) for x, stems in texts.items() if any(map(is_label_file, stems.values()))
    }
    found = {folder: _labels_of(folder, stems, labels, root) for folder, stems in images.items()}
    return {folder: label_folder for folder, label_folder in found.items() if label_folder}


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
            scores[label_folder] = (own_split == split, len(common), len(stems & names))
    best = [x for x, score in scores.items() if score == max(scores.values())]
    if len(best) > 1:
        raise ValueError(
            f"{best[0]} and {best[1]} both have YOLO labels for the images in {folder}: name the "
            "folders images/ and labels/"
        )
    return best[0] if best else None


def _splits_by_folder(
    root: Path,
    images: dict[Path, set[str]],
    label_folders: dict[Path, Path],
    unusual: dict[Path, Path],
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
        ("images without labels", str(x), f"the folder has no label files: its {len(names)} images "
         "are left out")
        for x, names in images.items() if x not in used
    )  # fmt: skip
    return {
        split: YOLOSource(
            folders[0], split, root, tuple(map(ImageSource, folders)), _names_file(root),
            unusual, notes,
        )
        for split, folders in by_split.items()
    }  # fmt: skip


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
        lines = read_text(file).splitlines()
    except EncodingError:
        return True
    first = next((line.strip() for line in lines if line.strip()), "")
    return is_image(Path(first)) or first.replace("\\", "/").rpartition("/")[2] in stems
