"""darknet: obj.data, obj.names and lists of images; also CVAT's export "YOLO 1.1"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import (
    FORMAT_REGISTRY,
    DatasetFormat,
    EncodingError,
    read_lines,
)
from flowdet.data.custom.formats.yolo.files import (
    DataFile,
    YOLOSource,
    files_in,
    is_darknet_file,
    splits_of,
)
from flowdet.data.custom.formats.yolo.reader import read_split
from flowdet.data.custom.raw import RawSplit

__all__ = ["Darknet"]

# the names that DataFile uses for keys of a data file
_KEYS = {"classes": "nc", "valid": "val"}


@FORMAT_REGISTRY.register()
class Darknet(DatasetFormat):
    layout = "obj.data, obj.names, train.txt and a .txt file with the boxes next to each image"

    def find(self, folder: Path) -> dict[str, YOLOSource] | None:
        return _splits(folder, files_in(folder))

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, YOLOSource] | None:
        return _splits(folder, files)

    def read(self, source: YOLOSource, findings: Findings) -> RawSplit:
        return read_split(source, findings)


def _splits(folder: Path, files: Sequence[Path]) -> dict[str, YOLOSource] | None:
    data = [_load(file) for file in files if is_darknet_file(file)]
    if len(data) > 1:
        raise ValueError(
            f"{data[0].path} and {data[1].path} both describe a darknet dataset: keep one of them"
        )
    return splits_of(data[0], folder) if data else None


def _load(file: Path) -> DataFile:
    """Loads an obj.data, which has lines such as `train = data/train.txt`."""
    try:
        lines = read_lines(file)
    except EncodingError as error:
        raise ValueError(f"{file}:{error.line}: {error}") from error
    content, numbers = {}, {}
    for number, line in enumerate(lines, 1):
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";")):
            key = _KEYS.get(key.strip(), key.strip())
            content[key], numbers[key] = value.strip(), number
    return DataFile(file, content, numbers)
