"""A custom dataset: reads its splits and registers them in detectron2's catalogs."""

from __future__ import annotations

import json
import pickle
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.custom.coco import evaluation_copy, load_json, read_coco
from flowdet.data.custom.layout import SPLITS, COCOSplit, Layout, VOCSplit, find_layout
from flowdet.data.custom.problems import ClassList, Problem, Report, raise_first
from flowdet.data.custom.voc import read_class_file, read_voc

__all__ = ["CustomDataset", "SplitContent", "register_custom"]


@dataclass
class SplitContent:
    """The content of a split.

    Attributes:
        records: dataset dicts in detectron2's format, with boxes as absolute xyxy in pixels.
        category_index: class index by category id; None for VOC format.
        coco: content of the json file; None for VOC format.
    """

    records: list[dict]
    category_index: dict[int, int] | None = None
    coco: dict | None = None


class CustomDataset:
    """A dataset in a folder in VOC or COCO format, or with one such folder per split.

    The classes come from a class file or from the training split. No image is opened.

    Args:
        folder: the folder of the dataset.
        report: called for every problem; by default the first problem is raised as a ValueError.
    """

    def __init__(self, folder: str | Path, report: Report | None = None):
        self.folder = Path(folder).expanduser()
        self._report = report or raise_first(self.folder)
        self._classes: ClassList | None = None
        self._pickled_records: dict[str, bytes] = {}
        self._scratch: tempfile.TemporaryDirectory | None = None

    @cached_property
    def layout(self) -> Layout:
        """The format of the folder and the files of its splits.

        Raises:
            FileNotFoundError, ValueError: as `find_layout`.
        """
        return find_layout(self.folder)

    @property
    def class_names(self) -> list[str]:
        """The class names by class index; reads the training split if no split has been read.

        Raises:
            FileNotFoundError, ValueError: as `read`.
        """
        if self._classes is None:
            self.read("train")
        return list(self._classes.names)

    def name(self, split: str) -> str:
        """Returns the name of a split in detectron2's catalogs."""
        return f"custom_{self.folder.resolve().name}_{split}"

    def read(self, split: str) -> SplitContent:
        """Reads a split; reads the training split before it if the classes are unknown.

        Args:
            split: "train", "val" or "test".

        Raises:
            FileNotFoundError: the dataset has no such split; also as `find_layout`.
            ValueError: as `find_layout`; with the default `report` also for the first problem.
        """
        if split not in self.layout.splits:
            splits = ", ".join(self.layout.splits)
            raise FileNotFoundError(
                f"dataset {self.folder} has no split {split!r}; its splits are {splits}"
            )
        if split != "train" and self._classes is None:
            self.read("train")
        files = self.layout.splits[split]
        content, classes = self._read_split(files)
        # if the training split could not be read, the next split defines the classes
        if not (self._classes and self._classes.names):
            self._classes = classes
        if content is None:
            return SplitContent([])
        if not content.records:
            self._report(Problem("empty split", str(files.source), "the split has no image"))
        elif not any(record["annotations"] for record in content.records):
            self._report(Problem("empty split", str(files.source), "the split has no object"))
        return content

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
        return pickle.loads(self._pickled_records[split])

    def _read_split(self, files: VOCSplit | COCOSplit) -> tuple[SplitContent | None, ClassList]:
        """Calls the reader of the split's format.

        Returns:
            The content, or None if the json file cannot be read; and the classes.
        """
        classes = self._classes if self._classes and self._classes.names else None
        if isinstance(files, COCOSplit):
            data = load_json(files.json_file, self._report)
            if data is None:
                return None, classes or ClassList((), str(files.json_file))
            records, classes, index = read_coco(files, data, classes, self._report)
            return SplitContent(records, index, data), classes
        if classes is None and self.layout.class_file is not None:
            classes = read_class_file(self.layout.class_file, self._report)
        records, classes = read_voc(files, classes, self._report)
        return SplitContent(records), classes

    def _fill_metadata(self, split: str, content: SplitContent) -> None:
        meta = MetadataCatalog.get(self.name(split))
        meta.set(thing_classes=self.class_names)
        if content.coco is None:
            return
        meta.set(thing_dataset_id_to_contiguous_id=content.category_index)
        copy, image_ids = evaluation_copy(content.coco)
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="coco_")
        json_file = Path(self._scratch.name) / f"{split}.json"
        json_file.write_text(json.dumps(copy))
        # read by the COCO evaluator
        meta.set(json_file=str(json_file), evaluation_image_ids=image_ids)


def register_custom(folder: str | Path) -> dict[str, str]:
    """Registers the splits of a folder; replaces an earlier registration of the same folder.

    It reads file names only, so that a model can be used on a machine without its dataset. Errors
    in the dataset are raised when it is read.

    Args:
        folder: the folder of the dataset.

    Returns:
        The registered names by split ("train", "val", "test"). If the layout of the folder cannot
        be recognized, all three splits are registered.

    Raises:
        ValueError: another folder of the same name is registered.
    """
    dataset = CustomDataset(folder)
    try:
        layout = dataset.layout
    except (OSError, ValueError):
        layout = None
    names = {split: dataset.name(split) for split in (layout.splits if layout else SPLITS)}
    for split, name in names.items():
        _unregister(name, dataset.folder)
        DatasetCatalog.register(name, partial(dataset.load, split))
        meta = MetadataCatalog.get(name).set(folder=str(dataset.folder.resolve()))
        if layout is not None:
            meta.set(evaluator_type=layout.kind)
        if layout is not None and layout.kind == "pascal_voc":
            # the area under the curve, VOC's metric since 2010
            meta.set(year=2012)
    return names


def _unregister(name: str, folder: Path) -> None:
    """Removes a registered dataset; raises ValueError if it belongs to another folder."""
    if name not in DatasetCatalog:
        MetadataCatalog.pop(name, None)
        return
    registered = MetadataCatalog.get(name).get("folder")
    if registered != str(folder.resolve()):
        raise ValueError(
            f"folders {registered} and {folder} would have the same dataset name {name!r}: rename "
            "one of them"
        )
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
