"""Finds the label files of images in YOLO and darknet datasets."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.yolo.classes import is_class_file
from flowdet.data.custom.formats.yolo.files import (
    YOLOSource,
    counterparts,
    names_in,
    plain_name,
)
from flowdet.data.custom.formats.yolo.rows import is_label_file
from flowdet.data.custom.image_finder import walk
from flowdet.data.image_files import conversion_hint, image_suffixes

__all__ = ["LabelFinder"]


class LabelFinder:
    """Finds the label files of images.

    The label file of `images/train/a.jpg` is `labels/train/a.txt` or `images/train/a.txt`.

    Args:
        source: the files of the split.
        findings: collects label files without an image, and repairs.

    Attributes:
        folders: the folders that may have label files; known after `find`.
    """

    def __init__(self, source: YOLOSource, findings: Findings):
        self._source, self._findings = source, findings
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._labels: dict[Path, list[Path]] = {}
        self.folders: list[Path] = []

    def find(self, images: Sequence[Path]) -> dict[Path, Path | None]:
        """Returns the label file of each image; None for an image without one.

        An image with the label file of another one is reported and left out.
        """
        self.folders = sorted(self._all_folders(images))
        labels = {image: self._exact(image) for image in images}
        unused = self._unused()
        by_name: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for label in unused:
            by_name[label.parent, plain_name(label.stem)].append(label)
        for image in [image for image, label in labels.items() if label is None]:
            labels[image] = self._similar(image, by_name)
        adapted = set(labels.values())
        for label in unused:
            if label not in adapted:
                self._report_unused(label)
        return self._without_shared(labels)

    def usual(self, image: Path) -> Path:
        """Returns the path that the label file of an image usually has."""
        return self._folders_of(image.parent)[0] / f"{image.stem}.txt"

    def _all_folders(self, images: Iterable[Path]) -> set[Path]:
        """Returns the folders of the labels of images, and folders of labels without images."""
        folders = {
            label_folder
            for parent in {image.parent for image in images}
            for label_folder in self._folders_of(parent)
        }
        for image_source in self._source.images:
            if image_source.path.is_dir():
                for label_folder in self._folders_of(image_source.path):
                    folders |= _folders_below(label_folder)
        return folders

    def _folders_of(self, image_folder: Path) -> list[Path]:
        if image_folder not in self._labels:
            named = self._source.label_folders.get(image_folder)
            usual = counterparts(image_folder, of_images=True)
            self._labels[image_folder] = list(dict.fromkeys([*([named] if named else []), *usual]))
        return self._labels[image_folder]

    def _files(self, folder: Path) -> dict[str, list[str]]:
        """Returns the names of the files in a folder by their name without suffix."""
        if folder not in self._names:
            names = self._names[folder] = defaultdict(list)
            for name in names_in(folder):
                names[os.path.splitext(name)[0]].append(name)
        return self._names[folder]

    def _texts(self, folder: Path, stem: str) -> list[Path]:
        names = self._files(folder).get(stem, [])
        texts = [folder / name for name in names if name.lower().endswith(".txt")]
        return [text for text in texts if not is_class_file(text)]

    def _exact(self, image: Path) -> Path | None:
        stem = image.stem
        labels = [x for folder in self._folders_of(image.parent) for x in self._texts(folder, stem)]
        if len(labels) > 1 and labels[0].read_bytes() != labels[1].read_bytes():
            text = f"{labels[0]} is another label file of {image}: keep one of them"
            self._findings.problem("two files of one name", labels[1], text)
        return labels[0] if labels else None

    def _unused(self) -> list[Path]:
        """Lists the label files that have the name of no image."""
        unused = []
        for folder in self.folders:
            stems = self._image_stems(folder)
            others = [stem for stem in self._files(folder) if stem not in stems]
            unused += [x for stem in others for x in self._texts(folder, stem) if is_label_file(x)]
        return unused

    def _image_stems(self, folder: Path) -> set[str]:
        """Returns the names of the images whose labels may be in a folder."""
        named = [x for x, labels in self._source.label_folders.items() if labels == folder]
        suffixes = tuple(image_suffixes())
        return {
            stem
            for image_folder in (*named, *counterparts(folder, of_images=False))
            for stem, names in self._files(image_folder).items()
            if any(name.lower().endswith(suffixes) for name in names)
        }

    def _similar(self, image: Path, unused: dict[tuple[Path, str], list[Path]]) -> Path | None:
        """Returns the only unused label file whose name is similar.

        The name may differ in letter case or Unicode form, or contain the suffix of the image.
        """
        names = {plain_name(image.stem), plain_name(image.name)}
        folders = self._folders_of(image.parent)
        matches = [x for f in folders for name in names for x in unused.get((f, name), [])]
        if len(matches) != 1:
            return None
        text = f"{matches[0]} is read as its label file"
        self._findings.repair("file name adapted", image, text)
        return matches[0]

    def _without_shared(self, labels: dict[Path, Path | None]) -> dict[Path, Path | None]:
        owners: dict[Path, Path] = {}
        for image, label in labels.items():
            if label and owners.setdefault(label, image) != image:
                text = f"{owners[label]} has the same label file {label}: keep one of the images"
                self._findings.problem("two files of one name", image, text)
        return {x: label for x, label in labels.items() if label is None or owners[label] == x}

    def _report_unused(self, label: Path) -> None:
        folders = counterparts(label.parent, of_images=False)
        others = [x for folder in folders for x in self._files(folder).get(label.stem, [])]
        others = [name for name in others if conversion_hint(name)]
        text = f"there is no image {folders[0] / label.stem}.*"
        text += f", but {others[0]}{conversion_hint(others[0])}" if others else ""
        self._findings.problem("annotation without image", label, text)


def _folders_below(folder: Path) -> set[Path]:
    """Returns the folders with text files in a folder and its subfolders."""
    return {path.parent for path in walk(folder) if path.suffix.lower() == ".txt"}
