"""YOLO: one txt file per image, with a data.yaml (ultralytics, Roboflow) or without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import FORMAT_REGISTRY, DatasetFormat
from flowdet.data.custom.formats.yolo.files import (
    DataFile,
    YOLOSource,
    files_in,
    is_darknet_file,
    is_data_file,
    load_yaml,
    splits_of,
)
from flowdet.data.custom.formats.yolo.reader import read_split
from flowdet.data.custom.formats.yolo.search import search_splits
from flowdet.data.custom.raw import RawSplit

__all__ = ["YOLO"]


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
        return search_splits(folder, files)

    def read(self, source: YOLOSource, findings: Findings) -> RawSplit:
        return read_split(source, findings)


def _data_file(files: Sequence[Path]) -> DataFile | None:
    """Loads the data.yaml that is nearest to the folder of the dataset.

    Raises:
        ValueError: there is another one with other content, or of a dataset in another folder.
    """
    if not files:
        return None
    first, *others = sorted(files, key=lambda file: len(file.parts))
    data = load_yaml(first)
    for file in others:
        is_below = first.parent in file.parents
        is_copy = file.parent == first.parent and load_yaml(file).content == data.content
        if not is_copy and (not is_below or len(file.parts) == len(first.parts)):
            raise ValueError(
                f"{first} and {file} both describe a YOLO dataset: keep one of them, or give the "
                "folder of one dataset"
            )
    return data
