"""PASCAL VOC: one xml file per image, and optional lists of the images of each split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    ALL,
    FORMAT_REGISTRY,
    SPLITS,
    DatasetFormat,
    EncodingError,
    parents,
    read_lines,
    split_of,
    split_of_path,
)
from flowdet.data.custom.image_finder import FilesByStem, ImageFinder, closest, walk
from flowdet.data.custom.raw import Category, RawImage, RawObject, RawSplit
from flowdet.data.detection.voc import Report as VOCReport
from flowdet.data.detection.voc import VOCAnnotation, read_voc_annotation
from flowdet.data.image_files import image_suffixes

__all__ = ["VOC", "VOCSource"]

# names of the lists in ImageSets/Main, the usual one first
_LISTS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "eval", "dev", "minival"),
    "test": ("test",),
}
_CLASS_FILES = ("classes.txt", "labels.txt")
# the beginning of an xml file, and the element that VOC annotations start with
# the number of xml files of a folder whose root is examined
_NUM_EXAMINED = 20
# a line of a list with an image id and 0, 1 or -1
_FLAGGED = re.compile(r"(.*\S)\s+-?[01]")
_HEAD_BYTES, _ROOT = 4096, re.compile(rb"<annotation[\s>]")


@dataclass(frozen=True)
class VOCSource:
    """The files of a split.

    Attributes:
        annotations: folders with .xml files.
        images: folders with images.
        listing: file with one image id per line; None stands for all files in the folders.
        class_file: text file with one class name per line; None if there is no such file.
    """

    annotations: tuple[Path, ...]
    images: tuple[Path, ...]
    listing: Path | None = None
    class_file: Path | None = None

    @property
    def path(self) -> Path:
        return self.listing or self.annotations[0]


@FORMAT_REGISTRY.register()
class VOC(DatasetFormat):
    layout = "Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt and val.txt"
    evaluator_type = "pascal_voc"

    def find(self, folder: Path) -> dict[str, VOCSource] | None:
        annotations, images = folder / "Annotations", folder / "JPEGImages"
        lists = folder / "ImageSets" / "Main"
        if not (annotations.is_dir() and images.is_dir() and lists.is_dir()):
            return None
        return _listed_splits((lists,), (annotations,), (images,), class_file(folder)) or None

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, VOCSource] | None:
        annotations = _annotation_folders(files)
        if not annotations:
            return None
        images = parents(file for file in files if file.suffix.lower() in image_suffixes())
        if not images:
            raise FileNotFoundError(
                f"{annotations[0]} has VOC annotations (.xml), but there is no image below {folder}"
            )
        classes = class_file(folder)
        lists = parents(file for file in files if file.suffix == ".txt")
        if listed := _listed_splits(lists, annotations, images, classes):
            return listed
        splits: dict[str, VOCSource] = {}
        for split in SPLITS:
            own = _of_split(annotations, split, folder)
            if own:
                # images may be in folders that are not named after a split
                pictures = _of_split(images, split, folder) or _of_split(images, None, folder)
                splits[split] = VOCSource(own, pictures or own, class_file=classes)
        test_images = _of_split(images, "test", folder)
        unnamed = _of_split(annotations, None, folder)
        if splits and unnamed:
            raise ValueError(
                f"{unnamed[0]} has VOC annotations, but belongs to no split, unlike "
                f"{', '.join(str(source.path) for source in splits.values())}: rename or remove "
                "it, or list the images of each split in ImageSets/Main/train.txt and val.txt"
            )
        if splits and "test" not in splits and test_images:
            # for prediction
            splits["test"] = VOCSource(test_images, test_images, class_file=classes)
        return splits or {ALL: VOCSource(annotations, images, class_file=classes)}

    def read(self, source: VOCSource, findings: Findings) -> RawSplit:
        categories, class_source = None, f"the annotations of {source.path}"
        if source.class_file:
            categories = read_class_file(source.class_file, findings)
            class_source = str(source.class_file)
        images = list(_Reader(source, findings).images())
        return RawSplit(images, source.path, categories, class_source, origin=1)


def class_file(folder: Path) -> Path | None:
    """Returns the file with class names in a folder; None if there is no such file."""
    return next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)


def read_class_file(path: Path, findings: Findings) -> list[Category]:
    """Reads class names from a text file, one per line; empty lines are skipped."""
    names: list[str] = []
    try:
        lines = read_lines(path)
    except EncodingError as error:
        findings.problem("unreadable class file", f"{path}:{error.line}", str(error), fatal=True)
        return []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name in names:
            text = f"class {name!r} is listed twice"
            findings.problem("class listed twice", f"{path}:{number}", text)
        elif name:
            names.append(name)
    if not names:
        text = "the file contains no class name: write one per line"
        findings.problem("empty class list", path, text, fatal=True)
    return [Category(name) for name in names]


def _annotation_folders(files: Sequence[Path]) -> tuple[Path, ...]:
    """Returns the folders with VOC annotations among their first xml files."""
    first: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() == ".xml":
            first.setdefault(file.parent, []).append(file)
    return tuple(
        folder
        for folder, xmls in first.items()
        if any(_is_annotation(xml) for xml in xmls[:_NUM_EXAMINED])
    )


def _is_annotation(file: Path) -> bool:
    with open(file, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    # an empty or broken file is reported when it is read
    return bool(_ROOT.search(head.replace(b"\0", b""))) or b"<annotations" not in head


def _listed_splits(
    lists: Sequence[Path],
    annotations: tuple[Path, ...],
    images: tuple[Path, ...],
    classes: Path | None,
) -> dict[str, VOCSource]:
    """Returns the splits that lists such as train.txt define.

    Lists in ImageSets/Main have precedence over those of other tasks.

    Raises:
        ValueError: several folders have a list of training images.
    """
    found: dict[Path, dict[str, Path]] = {}
    for folder in lists:
        names = {split: [folder / f"{name}.txt" for name in _LISTS[split]] for split in SPLITS}
        files = {split: [f for f in paths if f.is_file()] for split, paths in names.items()}
        if files["train"]:
            found[folder] = {split: paths[0] for split, paths in files.items() if paths}
    main = {folder: files for folder, files in found.items() if folder.name == "Main"}
    found = main or found
    if len(found) > 1:
        files = ", ".join(str(files["train"]) for files in found.values())
        raise ValueError(
            f"there are several lists for train: {files}; give the folder of one dataset"
        )
    return {
        split: VOCSource(annotations, images, path, classes)
        for files in found.values()
        for split, path in files.items()
    }


def _of_split(folders: tuple[Path, ...], split: str | None, root: Path) -> tuple[Path, ...]:
    return tuple(folder for folder in folders if split_of_path(folder, root) == split)


class _Reader:
    """Reads the images of a split.

    Args:
        source: the files of the split.
        findings: collects problems and repairs.
    """

    def __init__(self, source: VOCSource, findings: Findings):
        self._source, self._findings = source, findings
        self._finder = ImageFinder(source.images, findings)
        self._images = FilesByStem(self._finder.images, source.images)
        xmls = (path for folder in source.annotations for path in walk(folder))
        self._xmls = FilesByStem(
            dict.fromkeys(path for path in xmls if path.suffix.lower() == ".xml"),
            source.annotations,
        )

    def images(self) -> Iterator[RawImage]:
        """Yields the images with their objects."""
        if self._source.listing:
            ids = list(self._listed_ids())
            if self._is_for_prediction(image_id for image_id, _ in ids):
                yield from self._images_for_prediction(ids)
                return
            found = (self._image(image_id, where) for image_id, where in ids)
        elif self._xmls.paths:
            found = self._unlisted_images()
        else:
            found = self._images_for_prediction([(stem, "") for stem in self._images.ids])
        yield from self._without_shared([image for image in found if image])

    def _without_shared(self, images: list[RawImage]) -> Iterator[RawImage]:
        """Leaves out images with more than one xml file: they belong to one of them at most."""
        by_path: dict[Path, list[RawImage]] = {}
        for image in images:
            by_path.setdefault(image.path, []).append(image)
        for path, same in by_path.items():
            if len({image.where for image in same}) == 1:
                yield from same
                continue
            text = f"{same[0].where} is also an annotation of {path}: keep one of them"
            self._findings.problem("two annotations of one image", same[1].where, text)

    def _unlisted_images(self) -> Iterator[RawImage | None]:
        used: set[Path] = set()
        for image_id in self._xmls.ids:
            image = self._image(image_id, "")
            used |= {image.path} if image else set(self._images.get(image_id))
            yield image
        for image_id in self._images.ids:
            if used.isdisjoint(paths := self._images.get(image_id)):
                self._report_unannotated(image_id, str(paths[0]))

    def _listed_ids(self) -> Iterator[tuple[str, str]]:
        """Yields the image ids of the list, and the line of each."""
        seen, lines = set(), [line.strip() for line in self._lines(self._source.listing)]
        # VOC's lists of a class have a second column
        flags = [_FLAGGED.fullmatch(line) for line in lines if line]
        for number, line in enumerate(lines, 1):
            where = f"{self._source.listing}:{number}"
            text = _FLAGGED.fullmatch(line)[1] if line and all(flags) else line
            image_id = self._known_id(text, where)
            if image_id in seen:
                text = f"image {image_id} is listed twice"
                self._findings.problem("image listed twice", where, text)
            elif image_id:
                seen.add(image_id)
                yield image_id, where

    def _lines(self, listing: Path) -> list[str]:
        try:
            return read_lines(listing)
        except EncodingError as error:
            where = f"{listing}:{error.line}"
            self._findings.problem("unreadable list", where, str(error), fatal=True)
            return []

    def _known_id(self, text: str, where: str) -> str:
        """Returns the id that a line of a list stands for: it may have a suffix or folders."""
        if not text or self._images.get(text) or self._xmls.get(text):
            return text
        path = text.replace("\\", "/")
        stem, dot, suffix = path.rpartition(".")
        if dot and f".{suffix.lower()}" in {*image_suffixes(), ".xml"}:
            path = stem
        parts = path.split("/")
        for ending in ("/".join(parts[start:]) for start in range(len(parts))):
            if self._images.get(ending) or self._xmls.get(ending):
                note = (
                    f"{text} is read as {ending}: a list has names only, without folder and suffix"
                )
                self._findings.repair("line of a list adapted", where, note)
                return ending
        return text

    def _is_for_prediction(self, ids: Iterable[str]) -> bool:
        """Whether it is a test split without any annotation."""
        is_test = split_of(self._source.path.stem) == "test"
        return is_test and not any(self._xmls.get(image_id) for image_id in ids)

    def _images_for_prediction(self, ids: Iterable[tuple[str, str]]) -> Iterator[RawImage]:
        for image_id, where in ids:
            paths = self._images.get(image_id)
            if paths:
                yield RawImage(paths[0], image_id, where or str(paths[0]), annotated=False)
            else:
                self._findings.problem("missing image", where, self._missing(image_id))

    def _image(self, image_id: str, where: str) -> RawImage | None:
        """Returns an image with its objects; None after reporting why it cannot be used."""
        xmls = self._xmls.get(image_id) or self._similar(self._xmls, image_id, where)
        if not xmls:
            return self._image_without_annotation(image_id, where)
        if len(xmls) > 1:
            self._report_same_name(xmls)
        content = read_voc_annotation(xmls[0], self._report_in(xmls[0]))
        if content is None:
            return None
        path = self._image_of(image_id, where, xmls[0], content)
        objects = [
            RawObject(obj.name, obj.corners, f"{xmls[0]}:{obj.line}", difficult=obj.difficult)
            for obj in content.objects
        ]
        return path and RawImage(path, image_id, str(xmls[0]), content.size, objects=objects)

    def _image_without_annotation(self, image_id: str, where: str) -> None:
        if self._images.get(image_id):
            self._report_unannotated(image_id, where)
        else:
            self._findings.problem("missing image", where, self._missing(image_id))

    def _image_of(
        self, image_id: str, where: str, xml: Path, content: VOCAnnotation
    ) -> Path | None:
        """Returns the image with the name of an xml file, or else with the name in <filename>."""
        paths = self._images.get(image_id) or self._images.by_name(xml.stem)
        paths = paths or self._similar(self._images, image_id, where or xml)
        name = content.file_name.replace("\\", "/").rpartition("/")[2]
        if not paths and name:
            paths = [path for path in self._images.by_name(Path(name).stem) if path.name == name]
            if len(paths) == 1 or closest(xml, paths or [xml]) in paths:
                text = f"there is no image {image_id}.*; <filename> names {name}"
                self._findings.repair("file name adapted", xml, text)
        if not paths:
            kind = "missing image" if where else "annotation without image"
            return self._findings.problem(kind, where or xml, self._missing(image_id))
        path = paths[0] if len(paths) == 1 else closest(xml, paths)
        if path and name != path.name and any(x.name == name for x in self._images.paths):
            text = f"<filename> names {name}, which is another image: {path.name} is used"
            self._findings.repair("file name differs", xml, text)
        return path or self._report_same_name(paths)

    def _report_same_name(self, files: Sequence[Path]) -> None:
        text = f"{files[0]} has the same name: keep one of them"
        self._findings.problem("two files of one name", files[1], text)

    def _similar(self, files: FilesByStem, image_id: str, where: object) -> list[Path]:
        """Returns the only file whose name differs in letter case or Unicode form, as a list."""
        path = files.similar(image_id)
        if path:
            self._findings.repair("file name adapted", where, f"{image_id} is read as {path}")
        return [path] if path else []

    def _report_in(self, xml: Path) -> VOCReport:
        def report(kind: str, line: str, text: str, repaired: bool) -> None:
            add = self._findings.repair if repaired else self._findings.problem
            add(kind, f"{xml}:{line}", text)

        return report

    def _report_unannotated(self, image_id: str, where: str) -> None:
        text = f"there is no {image_id}.xml; an image without objects needs an .xml file too"
        self._findings.problem("image without annotation", where, text)

    def _missing(self, image_id: str) -> str:
        folders = " or ".join(str(folder) for folder in self._source.images[:3])
        nearest = self._images.nearest(image_id)
        return f"there is no image {image_id}.* in {folders}{nearest}"
