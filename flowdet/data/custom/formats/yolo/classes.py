"""Class names of YOLO and darknet datasets: in data.yaml, or in a file such as classes.txt."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.formats.base import EncodingError, read_lines
from flowdet.data.custom.formats.yolo.files import DataFile, YOLOSource, names_in
from flowdet.data.custom.raw import Category

__all__ = ["YOLOClasses", "is_class_file", "read_classes"]

_CLASS_FILES = (
    "classes.txt", "obj.names", "labels.txt", "names.txt", "class_names.txt",
    # Roboflow
    "_darknet.labels",
)  # fmt: skip


@dataclass(frozen=True)
class YOLOClasses:
    """The name of each class id, and the file that defines them."""

    names: dict[int, str]
    source: str

    def categories(self) -> list[Category]:
        """Returns the classes by class index; with ids if these are not the indices."""
        ids = sorted(self.names)
        with_ids = ids != list(range(len(ids)))
        return [Category(self.names[i], i if with_ids else None) for i in ids]

    def listed(self) -> str:
        """Returns at most 12 of the classes, for a message."""
        pairs = [f"{i} ({self.names[i]})" for i in sorted(self.names)]
        return ", ".join(pairs[:12]) + (f", ... {len(pairs)} in all" if len(pairs) > 12 else "")


def is_class_file(file: Path) -> bool:
    """Whether a file has class names, by its name."""
    return file.name.lower() in _CLASS_FILES or file.suffix.lower() == ".names"


def read_classes(
    source: YOLOSource, folders: Iterable[Path], findings: Findings
) -> YOLOClasses | None:
    """Reads the classes of a split.

    Args:
        source: the files of the split. The names in its data file have precedence.
        folders: further folders that may have a file with class names: those of the labels.
        findings: collects problems and repairs.

    Returns:
        The classes; None after reporting why they are not known.
    """
    files = _class_files([source.folder, *folders], source.folder)
    try:
        if source.data and source.data.get("names") is not None:
            return _with_names(source.data, files, findings)
        if files:
            return _of_files(source, files, findings)
        return _of_count(source, findings)
    except _Unusable as error:
        return findings.problem("unreadable class list", error.where, str(error), fatal=True)


class _Unusable(Exception):
    """The classes cannot be read. `where` is the location of the reason."""

    def __init__(self, where: object, text: str):
        super().__init__(text)
        self.where = where


def _class_files(folders: Iterable[Path], root: Path) -> list[Path]:
    """Lists the files with class names in folders and in the folders around them up to the root."""
    around = (x for f in folders for x in (f, *f.parents) if x == root or root in x.parents)
    folders = dict.fromkeys(around)
    return [x / name for x in folders for name in names_in(x) if is_class_file(x / name)]


def _with_names(data: DataFile, files: list[Path], findings: Findings) -> YOLOClasses:
    """Returns the classes of the key `names`; reports files with other names as repairs."""
    value, where = data.get("names"), data.where("names")
    if isinstance(value, str):
        file = _named_file(value, data, files, findings)
        classes = YOLOClasses(_names_in(file), str(file))
    else:
        classes = YOLOClasses(_listed_names(value, where), str(data.path))
    _compare_count(data, classes, findings)
    for file in files:
        try:
            others = _names_in(file)
        except _Unusable:
            continue
        if any(classes.names[i] != others[i] for i in classes.names.keys() & others.keys()):
            text = (
                f"{file} has other names or another order; the names in {classes.source} are used"
            )
            findings.repair("class names differ", where, text)
    return classes


def _named_file(text: str, data: DataFile, files: list[Path], findings: Findings) -> Path:
    """Returns the file with class names that a data file names, or the only such file."""
    name = text.strip().replace("\\", "/")
    base = name.rpartition("/")[2]
    paths = [data.path.parent / name, data.path.parent / base]
    if path := next((path for path in paths if os.path.isfile(path)), None):
        return path
    matches = [file for file in files if file.name.lower() == base.lower()] or files
    if len(matches) != 1:
        raise _Unusable(
            data.where("names"),
            f"names: {text}: there is no file {paths[0]}; give the class names as a list or as "
            "lines of this file",
        )
    note = f"names: {text}: there is no such file, {matches[0]} is read"
    findings.repair("file name adapted", data.where("names"), note)
    return matches[0]


def _listed_names(value: list | dict, where: str) -> dict[int, str]:
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    ids = [_to_integer(key) for key, _ in pairs]
    if None in ids or not all(isinstance(name, str) for _, name in pairs):
        raise _Unusable(where, "names must be a list of class names, or a name for each class id")
    names = {i: name for i, (_, name) in zip(ids, pairs, strict=True)}
    if len(names) < len(pairs):
        raise _Unusable(where, "names has a repeated class id")
    return _checked(names, where)


def _to_integer(value: object) -> int | None:
    """Converts digits to an integer; None for any other value, and for more than 5 digits."""
    text = str(value).strip()
    return int(text) if text.isdecimal() and len(text) <= 5 else None


def _names_in(file: Path) -> dict[int, str]:
    """Reads a text file with one class name per line."""
    try:
        lines = read_lines(file)
    except EncodingError as error:
        raise _Unusable(f"{file}:{error.line}", str(error)) from error
    while lines and not lines[-1].strip():
        del lines[-1]
    if not lines:
        raise _Unusable(file, "the file contains no class name: write one per line")
    return _checked(dict(enumerate(line.strip() for line in lines)), file, by_line=True)


def _checked(names: dict[int, str], where: object, by_line: bool = False) -> dict[int, str]:
    """Returns the names; raises _Unusable if one is empty or repeated."""
    ids: dict[str, int] = {}
    for i, name in names.items():
        place = f"{where}:{i + 1}" if by_line else where
        if not name.strip():
            text = "the line has no class name, but every line is a class" if by_line else ""
            raise _Unusable(place, text or f"class {i} has no name")
        if name in ids:
            raise _Unusable(place, f"classes {ids[name]} and {i} have the same name {name!r}")
        ids[name] = i
    return names


def _compare_count(data: DataFile, classes: YOLOClasses, findings: Findings) -> None:
    count = data.get("nc")
    if count is not None and str(count).strip() != str(len(classes.names)):
        text = f"nc is {count}, but there are {len(classes.names)} names: nc is ignored"
        findings.repair("number of classes differs", data.where("nc"), text)


def _of_files(source: YOLOSource, files: list[Path], findings: Findings) -> YOLOClasses:
    """Returns the classes of text files, which must be the same in all of them."""
    names = _names_in(files[0])
    for file in files[1:]:
        if _names_in(file) != names:
            raise _Unusable(
                file,
                f"the class names differ from those in {files[0]}: the class ids are ambiguous; "
                "keep one of the files",
            )
    classes = YOLOClasses(names, str(files[0]))
    if source.data:
        text = f"there are no names: the class names in {files[0]} are used"
        findings.repair("class names missing", source.data.path, text)
        _compare_count(source.data, classes, findings)
    return classes


def _of_count(source: YOLOSource, findings: Findings) -> YOLOClasses:
    """Returns numbers as class names, if the data file has the number of classes."""
    data = source.data
    count = _to_integer(data.get("nc")) if data else None
    if not count:
        raise _Unusable(
            data.path if data else source.folder,
            f"no file has the class names: add {'names to this file' if data else 'classes.txt'} "
            "with one name for each class id",
        )
    names = {i: str(i) for i in range(count)}
    text = f"there are no names: the classes are called 0 to {len(names) - 1}"
    findings.repair("class names missing", data.where("nc"), text)
    return YOLOClasses(names, f"{data.path}, nc")
