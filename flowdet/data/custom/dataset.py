"""A dataset by the path of its folder: reading its splits, and detectron2's catalogs."""

from __future__ import annotations

import json
import pickle
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.custom.coco import complete, load_json, read_coco
from flowdet.data.custom.layout import SPLITS, COCOSplit, Layout, VOCSplit, find_layout
from flowdet.data.custom.problems import ClassList, Problem, Report, raise_first
from flowdet.data.custom.voc import read_class_file, read_voc

__all__ = ["CustomDataset", "SplitContent", "register_custom"]


@dataclass
class SplitContent:
    """What a split holds: its dataset dicts and, of COCO format, class index by category id and
    the content of the json file."""

    records: list[dict]
    category_index: dict[int, int] | None = None
    coco: dict | None = None


class CustomDataset:
    """A folder in VOC or COCO format, or with such a folder for each split.

    Its classes are those of a class file or of the training split. No image is opened.

    report: gets every problem that is found; by default the first is raised as a ValueError.
    """

    def __init__(self, folder: str | Path, report: Report | None = None):
        self.folder = Path(folder).expanduser()
        self._report = report or raise_first(self.folder)
        self._classes: ClassList | None = None
        self._kept: dict[str, bytes] = {}
        self._scratch: tempfile.TemporaryDirectory | None = None

    @cached_property
    def layout(self) -> Layout:
        """How it is laid out; raises what `find_layout` raises."""
        return find_layout(self.folder)

    @property
    def class_names(self) -> list[str]:
        """Of the training split, which is read if it was not yet."""
        if self._classes is None:
            self.read("train")
        return list(self._classes.names)

    def name(self, split: str) -> str:
        """What a split is called in detectron2's catalogs."""
        return f"custom_{self.folder.resolve().name}_{split}"

    def read(self, split: str) -> SplitContent:
        """Reads a split, and the training split before if the classes are not known.

        Raises what `find_layout` raises, and FileNotFoundError for a split that is not there.
        """
        if split not in self.layout.splits:
            there = ", ".join(self.layout.splits)
            raise FileNotFoundError(f"dataset {self.folder} has no split {split!r}, but {there}")
        if split != "train" and self._classes is None:
            self.read("train")
        place = self.layout.splits[split]
        content, classes = self._read_split(place)
        # if the training split could not be read, the next one knows the classes
        if not (self._classes and self._classes.names):
            self._classes = classes
        if content is None:
            return SplitContent([])
        if not content.records:
            self._report(Problem("empty split", str(place.place), "the split holds no image"))
        elif not any(record["annotations"] for record in content.records):
            self._report(Problem("empty split", str(place.place), "the split holds no object"))
        return content

    def load(self, split: str) -> list[dict]:
        """The dataset dicts of a split, for detectron2's catalog; the metadata are filled in.

        The files are read once. A training asks several times, so the dicts are kept, pickled: in
        a fraction of their memory, and out of reach of callers who change them.
        """
        if split not in self._kept:
            content = self.read(split)
            self._fill_metadata(split, content)
            self._kept[split] = pickle.dumps(content.records)
        return pickle.loads(self._kept[split])

    def _read_split(self, place: VOCSplit | COCOSplit) -> tuple[SplitContent | None, ClassList]:
        """The content, None where the file as a whole cannot be read, and the classes."""
        classes = self._classes if self._classes and self._classes.names else None
        if isinstance(place, COCOSplit):
            data = load_json(place.json_file, self._report)
            if data is None:
                return None, classes or ClassList((), str(place.json_file))
            records, classes, index = read_coco(place, data, classes, self._report)
            return SplitContent(records, index, data), classes
        if classes is None and self.layout.class_file is not None:
            classes = read_class_file(self.layout.class_file, self._report)
        records, classes = read_voc(place, classes, self._report)
        return SplitContent(records), classes

    def _fill_metadata(self, split: str, content: SplitContent) -> None:
        meta = MetadataCatalog.get(self.name(split))
        meta.set(thing_classes=self.class_names)
        if content.coco is None:
            return
        meta.set(thing_dataset_id_to_contiguous_id=content.category_index)
        json_file = self.layout.splits[split].json_file
        if not complete(content.coco):
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="coco_")
            json_file = Path(self._scratch.name) / f"{split}.json"
            json_file.write_text(json.dumps(content.coco))
        # what detectron2's evaluator reads
        meta.set(json_file=str(json_file))


def register_custom(folder: str | Path) -> dict[str, str]:
    """Registers the splits of a folder, replacing what was registered of it before.

    Nothing but the names in the folder is looked at: a model can be used where its dataset is
    not. What is wrong shows when the dataset is read.

    Returns the registered names by split: "train", "val", "test", as far as they are there.
    Raises ValueError when another folder of the same name is registered.
    """
    dataset = CustomDataset(folder)
    try:
        layout = dataset.layout
    except (OSError, ValueError):
        layout = None
    names = {split: dataset.name(split) for split in (layout.splits if layout else SPLITS)}
    for split, name in names.items():
        _make_room(name, dataset.folder)
        DatasetCatalog.register(name, partial(dataset.load, split))
        meta = MetadataCatalog.get(name).set(folder=str(dataset.folder.resolve()))
        if layout is not None:
            meta.set(evaluator_type=layout.kind)
        if layout is not None and layout.kind == "pascal_voc":
            # the area under the curve, as VOC measures since 2010
            meta.set(year=2012)
    return names


def _make_room(name: str, folder: Path) -> None:
    if name not in DatasetCatalog:
        MetadataCatalog.pop(name, None)
        return
    there = MetadataCatalog.get(name).get("folder")
    if there != str(folder.resolve()):
        raise ValueError(
            f"{folder} and {there} would both be dataset {name!r} of this process: rename a folder"
        )
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
