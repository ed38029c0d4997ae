"""A custom dataset: reads its splits and registers them in detectron2's catalogs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.config.errors import ConfigError
from flowdet.config.rules import MAX_NAME, is_class_name
from flowdet.control_characters import NO_TEXT
from flowdet.data.custom.evaluation_copy import coco_content
from flowdet.data.custom.findings import Findings, log_once
from flowdet.data.custom.formats.base import ALL, SPLITS
from flowdet.data.custom.layout import Layout, find_layout
from flowdet.data.custom.notes import dataset_notes
from flowdet.data.custom.raw import ClassList, RawSplit
from flowdet.data.custom.records import build_records, class_list
from flowdet.data.scratch import scratch_folder

__all__ = ["CustomDataset", "SplitContent", "dataset_of", "register_custom"]


@dataclass
class SplitContent:
    """The content of a split.

    Attributes:
        records: dataset dicts in detectron2's format, with boxes as absolute xyxy in pixels.
        annotated: whether the split has annotations. A test split without is for prediction.
    """

    records: list[dict]
    annotated: bool = True


class CustomDataset:
    """A dataset in a folder, in one of the formats of `flowdet.data.custom.formats`.

    The classes come from a class file or from the training split. A dataset without a validation
    split, and without an annotated test split, holds a part of its training images out. The part
    depends only on the image ids and the seed.

    Args:
        folder: the folder of the dataset.
        on_problem: what a problem does, see `Findings`.
        hold_out: fraction of the training images that is held out.
        hold_out_seed: seed of the selection.
        format_name: `DATASETS.FORMAT`; "" recognizes the format.
        open_images: whether the header of every image is read, to compare its size.

    Attributes:
        findings: the problems and repairs of the splits that have been read.

    Raises:
        ConfigError: the name of the folder has control characters, or bytes that are not UTF-8.
    """

    def __init__(
        self,
        folder: str | Path,
        on_problem: str = "stop",
        hold_out: float = 0.2,
        hold_out_seed: int = 0,
        format_name: str = "",
        open_images: bool = True,
    ):
        self.folder = Path(folder).expanduser()
        _check_folder_name(self.folder)
        self.findings = Findings(self.folder, on_problem)
        self._hold_out, self._seed = hold_out, hold_out_seed
        self._format_name, self._open_images = format_name, open_images
        self._raw: dict[str, RawSplit] = {}
        # the image of each annotation, of all splits
        self._images: dict[str, Path] = {}
        self._pickled_records: dict[str, bytes] = {}
        self._scratch: tempfile.TemporaryDirectory | None = None

    @cached_property
    def layout(self) -> Layout:
        """The format of the folder and the files of its splits.

        Raises:
            FileNotFoundError, ValueError: as `find_layout`.
        """
        return find_layout(self.folder, self._format_name)

    @cached_property
    def splits(self) -> list[str]:
        """The names of the splits, with "val" if images are held out.

        Raises:
            FileNotFoundError, ValueError: as `find_layout` and `read`.
        """
        names = {"train", *self.layout.splits} - {ALL}
        if self.holds_out:
            names.add("val")
        return [name for name in SPLITS if name in names]

    @cached_property
    def evaluated_split(self) -> str:
        """The split to evaluate: "val", or "test" if there is none; "" if there is neither.

        If the dataset cannot be read it is "val", so that the error is raised when it is read.
        """
        try:
            return next((split for split in ("val", "test") if split in self.splits), "")
        except (OSError, ValueError):
            return "val"

    @cached_property
    def holds_out(self) -> bool:
        """Whether "val" consists of training images that are held out."""
        if "val" in self.layout.splits or not self._hold_out:
            return False
        return "test" not in self.layout.splits or not self._read_raw("test").annotated

    @cached_property
    def classes(self) -> ClassList:
        """The classes; reads the training split.

        Raises:
            FileNotFoundError, ValueError: as `read`.
        """
        first = ALL if ALL in self.layout.splits else "train"
        # a check goes on with the classes of another split if the training split has none
        for split in (first, *(name for name in self.layout.splits if name != first)):
            raw = self._read_raw(split)
            if raw.names_are_ids and split == first:
                text = "the list of categories is empty"
                self.findings.problem("empty class list", raw.source, text, fatal=True)
            elif raw.readable and not raw.names_are_ids:
                return self._checked(class_list(raw))
        return ClassList((), str(self.folder))

    def _checked(self, classes: ClassList) -> ClassList:
        """Reports class names and category ids that are too long or cannot be written to a file."""
        for name in classes.names:
            if len(name) > MAX_NAME:
                text = f"the class name {name[:20]!r}... has {len(name):,} characters, but at most "
                text += f"{MAX_NAME} are allowed: shorten it"
                self.findings.problem("class name too long", classes.source, text, fatal=True)
            if NO_TEXT.search(name):
                text = f"the class name {ascii(name)} has a control character, or half of a "
                text += "character: correct it"
                self.findings.problem("unreadable annotation", classes.source, text, fatal=True)
        for category in classes.categories:
            if not is_class_name(f"{category.id}"):
                text = f"the category id of class {category.name!r} has a control character, half "
                text += f"of a character, or more than {MAX_NAME} characters: correct it"
                self.findings.problem("unreadable annotation", classes.source, text, fatal=True)
        return classes

    @property
    def class_names(self) -> list[str]:
        """The class names by class index. Errors as `classes`."""
        return list(self.classes.names)

    def name(self, split: str) -> str:
        """Returns the name of a split in detectron2's catalogs."""
        return f"custom_{os.path.basename(os.path.realpath(self.folder))}_{split}"

    def read(self, split: str) -> SplitContent:
        """Reads a split, and the training split before it for the classes.

        Args:
            split: "train", "val" or "test".

        Raises:
            FileNotFoundError: the dataset has no such split; also as `find_layout`.
            ValueError: as `find_layout`; also for a problem, depending on `on_problem`.
        """
        if split not in self.splits:
            raise FileNotFoundError(
                f"dataset {self.folder} has no split {split!r}; its splits are "
                f"{', '.join(self.splits)}"
            )
        raw = self._part_of(split)
        evaluator_type = self.layout.format.evaluator_type
        records = build_records(raw, self.classes, evaluator_type, self.findings, self._open_images)
        self._check_not_empty(split, raw, records)
        return SplitContent(records, raw.annotated)

    def _check_not_empty(self, split: str, raw: RawSplit, records: list[dict]) -> None:
        """Reports a split without images or objects; a check does not, if another problem could be
        the reason."""
        if self.findings.on_problem == "list" and self.findings.problems:
            return
        text = ""
        if not records:
            text = "the split has no image"
        elif not any(record["annotations"] for record in records):
            # a test split without annotations is for prediction
            text = "" if split == "test" and not raw.annotated else "the split has no object"
            if split == "val" and not raw.annotated:
                text += "; images without annotations can be a test split (evaluated with "
                text += f"DATASETS.TEST \"('{self.name('test')}',)\"), which gets detections only"
        if text:
            self.findings.problem("empty split", raw.source, text, fatal=True)

    def load(self, split: str) -> list[dict]:
        """Returns the dataset dicts of a split and sets its metadata, for detectron2's catalog.

        The files are read only once, although a training calls this several times. The dicts are
        kept in pickled form, which needs less memory and which callers cannot change.

        Args:
            split: "train", "val" or "test".

        Raises:
            FileNotFoundError, ValueError: as `read`.
        """
        if split not in self._pickled_records:
            content = self.read(split)
            self._fill_metadata(split, content)
            self._pickled_records[split] = pickle.dumps(content.records)
            self.findings.log()
            notes = [self.held_out_note(), *dataset_notes({split: content.records}, self.classes)]
            for note in filter(None, notes):
                log_once(f"{self.folder}: {note}")
        return pickle.loads(self._pickled_records[split])

    def held_out_note(self) -> str:
        """Returns a sentence about the images that are held out; "" if there are none."""
        if not self.holds_out:
            return ""
        train, val = (len(self._part_of(split).images) for split in ("train", "val"))
        return (
            f"the dataset has no validation split: {val} of {train + val} images are held out for "
            f"it (DATASETS.HOLD_OUT {self._hold_out:g}, HOLD_OUT_SEED {self._seed})"
        )

    def _read_raw(self, split: str) -> RawSplit:
        if split not in self._raw:
            source = self.layout.splits[split]
            raw = self.layout.format.read(source, self.findings)
            self._leave_out_shared(raw)
            self._raw[split] = raw
        return self._raw[split]

    def _leave_out_shared(self, raw: RawSplit) -> None:
        """Reports annotation files that belong to another image in another split."""
        counts = Counter(image.where for image in raw.images)
        kept = []
        for image in raw.images:
            # other files describe several images
            if counts[image.where] == 1 and os.path.isfile(image.where):
                first = self._images.setdefault(image.where, image.path)
                if os.path.realpath(first) != os.path.realpath(image.path):
                    text = (
                        f"it is the annotation of {first} and of {image.path}: rename one of them"
                    )
                    self.findings.problem("two files of one name", image.where, text)
                    continue
            kept.append(image)
        raw.images = kept

    def _part_of(self, split: str) -> RawSplit:
        """Returns the raw content of a split; of the training images, the part that it gets."""
        if split not in ("train", "val") or split == "val" and not self.holds_out:
            return self._read_raw(split)
        raw = self._read_raw(ALL if ALL in self.layout.splits else "train")
        if not self.holds_out:
            return raw
        held_out = self._held_out_ids(raw)
        in_val = split == "val"
        return replace(raw, images=[x for x in raw.images if (x.image_id in held_out) == in_val])

    def _held_out_ids(self, raw: RawSplit) -> set[int | str]:
        """Selects the ids of images to hold out: at least one, but not all.

        All ids of a file are on the same side.
        """
        by_file: dict[str, list[int | str]] = {}
        for image in raw.images:
            by_file.setdefault(os.path.realpath(image.path), []).append(image.image_id)

        def key(ids: list[int | str]) -> bytes:
            # names of files may have bytes that are not UTF-8
            return hashlib.sha256(f"{self._seed}/{ids[0]}".encode(errors="surrogatepass")).digest()

        number = min(max(round(self._hold_out * len(by_file)), 1), len(by_file) - 1)
        groups = sorted(by_file.values(), key=key)[: max(number, 0)]
        return {image_id for ids in groups for image_id in ids}

    def _fill_metadata(self, split: str, content: SplitContent) -> None:
        evaluator_type = self.layout.format.evaluator_type
        meta = MetadataCatalog.get(self.name(split))
        meta.set(
            thing_classes=self.class_names,
            category_ids=self.classes.ids,
            annotated=content.annotated,
        )
        if content.annotated and evaluator_type == "pascal_voc":
            # the area under the curve, VOC's metric since 2010
            meta.set(evaluator_type=evaluator_type, year=2012)
            return
        self._scratch = self._scratch or scratch_folder("coco_")
        path = Path(self._scratch.name) / f"{split}.json"
        copy, ids = coco_content(content.records, self.classes, content.annotated)
        path.write_text(json.dumps(copy), encoding="utf-8")
        # read by the COCO evaluator
        meta.set(evaluator_type="coco", json_file=str(path), **ids._asdict())


def _check_folder_name(folder: Path) -> None:
    """Checks that a folder's name can be part of log lines, config.yaml and names of datasets."""
    name = os.fspath(folder)
    if not NO_TEXT.search(name):
        name = os.path.basename(os.path.realpath(folder))
    if NO_TEXT.search(name):
        raise ConfigError(
            f"the name of the folder {ascii(name)} (--data, DATASETS.PATH) has a control character "
            "or bytes that are not UTF-8: rename it"
        )


def register_custom(folder: str | Path, **settings) -> dict[str, str]:
    """Registers the splits of a folder; replaces an earlier registration of the same folder.

    It reads file names only, so that a model can be used on a machine without its dataset. Errors
    in the dataset are raised when it is read.

    Args:
        folder: the folder of the dataset.
        settings: further arguments of `CustomDataset`.

    Returns:
        The registered names by split: "train", "val" and "test". A split that does not exist is an
        error when it is read.

    Raises:
        ConfigError: as `CustomDataset`.
        ValueError: another folder of the same name is registered.
    """
    dataset = CustomDataset(folder, **settings)
    names = {split: dataset.name(split) for split in SPLITS}
    for split, name in names.items():
        _unregister(name, dataset.folder)
        DatasetCatalog.register(name, partial(dataset.load, split))
        MetadataCatalog.get(name).set(folder=os.path.realpath(dataset.folder))
    return names


def dataset_of(name: str) -> CustomDataset | None:
    """Returns the custom dataset of a registered name; None if the name is another dataset."""
    load: Callable | None = DatasetCatalog[name] if name in DatasetCatalog else None
    owner = getattr(getattr(load, "func", None), "__self__", None)
    return owner if isinstance(owner, CustomDataset) else None


def _unregister(name: str, folder: Path) -> None:
    """Removes a registered dataset; raises ValueError if it belongs to another folder."""
    if name not in DatasetCatalog:
        MetadataCatalog.pop(name, None)
        return
    registered = MetadataCatalog.get(name).get("folder")
    if registered != os.path.realpath(folder):
        raise ValueError(
            f"folders {registered} and {folder} would have the same dataset name {name!r}: rename "
            "one of them"
        )
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
