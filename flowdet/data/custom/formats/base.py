"""Base class of dataset formats, their registry, and helpers for reading annotation files."""

from __future__ import annotations

import json
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.utils.registry import Registry

from flowdet.data.custom.findings import Findings
from flowdet.data.custom.raw import RawSplit
from flowdet.data.custom.splits import ALL, SPLITS, split_of, split_of_path

__all__ = [
    "ALL",
    "FORMAT_REGISTRY",
    "SPLITS",
    "DatasetFormat",
    "EncodingError",
    "Source",
    "is_number",
    "read_flag",
    "read_id",
    "read_json",
    "read_lines",
    "read_text",
    "split_of",
    "split_of_path",
    "to_number",
]

FORMAT_REGISTRY = Registry("DATASET_FORMAT")
FORMAT_REGISTRY.__doc__ = "Subclasses of `DatasetFormat`. DATASETS.FORMAT can name one."


class Source(Protocol):
    """The files of a split. Every format defines its own class.

    Attributes:
        path: the file or folder to name in a message about the whole split.
    """

    path: Path


class DatasetFormat(ABC):
    """Finds and reads the annotations of one format.

    Attributes:
        layout: the files of the format, in one phrase for the list of accepted layouts.
        evaluator_type: detectron2's `evaluator_type`, "coco" or "pascal_voc".
    """

    layout: str
    evaluator_type = "coco"

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def find(self, folder: Path) -> dict[str, Source] | None:
        """Finds the splits by files with the usual names of the format.

        Args:
            folder: an existing folder.

        Returns:
            The files of each split, with keys from `SPLITS`, or only the key `ALL` if the dataset
            is not divided. None if the folder does not have this format.

        Raises:
            FileNotFoundError, ValueError: the folder has this format, but a file is missing or the
                splits are ambiguous.
        """

    def search(self, folder: Path, files: Sequence[Path]) -> dict[str, Source] | None:
        """Finds the splits by the contents of files, under any names.

        It is called if no format finds its usual names.

        Args:
            folder: the folder of the dataset.
            files: all files below it, without hidden ones, sorted.

        Returns, raises:
            As `find`.
        """
        return None

    @abstractmethod
    def read(self, source: Any, findings: Findings) -> RawSplit:
        """Reads a split.

        It reports entries that cannot be understood, with file and line (or the id of the
        annotation), and leaves them out if `findings` does not raise. It does not check boxes,
        classes and image sizes, because `flowdet.data.custom.records` checks them for all formats.
        """


class EncodingError(ValueError):
    """A text file is not in UTF-8. `line` is the number of the first such line."""

    def __init__(self, line: int):
        super().__init__("the text is not in the encoding UTF-8: save the file as UTF-8")
        self.line = line


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        EncodingError: the file has another encoding.
    """
    data = path.read_bytes()
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodingError(data[: error.start].count(b"\n") + 1) from error


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file; raises EncodingError as `read_text`.

    A line ends where editors end it. `str.splitlines` also ends it at form feeds and separators of
    Unicode, which would make two class names of one.
    """
    lines = re.split("\r\n|\r|\n", read_text(path))
    return lines if lines[-1] else lines[:-1]


def read_flag(value: object) -> int | None:
    """Converts a flag such as `iscrowd` or `difficult` to 0 or 1; None for any other value.

    Missing, null and empty values are 0; numbers and booleans, also as text, are read.
    """
    text = "0" if value is None else str(value).strip().lower()
    values = {"": 0, "0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
    return values.get(text)


def read_id(value: object) -> int | str | None:
    """Converts an id to an integer or a text; None for any other value.

    Whole numbers such as 3.0, which pandas writes, are integers.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) and value.strip() else None


def is_number(value: object) -> bool:
    """Whether a value is a finite number; a boolean is not."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    # an integer may be too large for a float
    return is_real and -sys.float_info.max <= value <= sys.float_info.max


def to_number(text: str) -> float | None:
    """Converts a text to a finite number; None for any other text, such as "nan" or "1_000"."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def read_json(path: Path, findings: Findings, fatal: bool = False) -> dict | None:
    """Reads a json file that contains an object, in UTF-8 or UTF-16.

    Args:
        path: the file.
        findings: collects the problem if the file cannot be read.
        fatal: whether the split cannot be used without the file.

    Returns:
        The object; None after reporting why the file cannot be read.
    """
    line = 1
    try:
        content = json.loads(read_text(path))
    except EncodingError as error:
        line, text = error.line, str(error)
    # json raises RecursionError for a file with thousands of brackets
    except (ValueError, RecursionError) as error:
        line, text = getattr(error, "lineno", 1), f"the file is not JSON: {error}"
    else:
        if isinstance(content, dict):
            return content
        text = f"the file contains a JSON {type(content).__name__}, not an object"
    return findings.problem("unreadable annotation", f"{path}:{line}", text, fatal)


def parents(files: Iterable[Path]) -> tuple[Path, ...]:
    """Returns the folders of files, each once, in order."""
    return tuple(dict.fromkeys(file.parent for file in files))
