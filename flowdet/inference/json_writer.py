"""Writes a JSON array to a file element by element."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flowdet.engine.atomic_file import disk_errors
from flowdet.inference.video_writer import create_folder_of
from flowdet.temporary_file import new_temporary


class JsonArrayWriter:
    """Writes a JSON array to a file element by element, one per line.

    It is a context manager. At its end the file gets its final name. After an error or Ctrl-C it
    contains the complete elements so far; if there are none, an earlier file of this name is kept.

    Args:
        path: path of the file; its folder is created. None writes no file and only counts.

    Attributes:
        count: the number of elements so far.

    Raises:
        OSError: the file cannot be written.
        ValueError: an element contains a number that is nan or infinite (raised by `add`).
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.count = 0
        self._file: BinaryIO | None = None
        # the size of the file up to the last complete call of `add`, in bytes
        self._complete = 0

    def __enter__(self) -> JsonArrayWriter:
        if self.path:
            create_folder_of(self.path)
            try:
                self._temporary = new_temporary(self.path)
                self._file = self._temporary.open("wb")
            except OSError as error:
                raise OSError(f"cannot write {self.path}: {error.strerror}") from error
        return self

    def add(self, rows: list[dict]) -> None:
        """Appends elements."""
        if self._file and rows:
            texts = [json.dumps(row, allow_nan=False) for row in rows]
            start = ",\n" if self.count else "[\n"
            with disk_errors(self.path):
                self._file.write((start + ",\n".join(texts)).encode())
                # written now, so that an interruption leaves complete elements
                self._file.flush()
            self._complete = self._file.tell()
        self.count += len(rows)

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self._file:
            return
        # after an error, what a full disk did not take is dropped
        with suppress(*([] if kind is None else [OSError])):
            self._file.close()
        if kind is not None and not self.count:
            self._temporary.unlink()
            return
        with disk_errors(self.path):
            with self._temporary.open("r+b") as file:
                file.truncate(self._complete)
                file.seek(self._complete)
                file.write(b"\n]\n" if self.count else b"[]\n")
            self._temporary.replace(self.path)
