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
