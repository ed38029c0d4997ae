"""Writes a JSON array to a file element by element."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from flowdet.inference.video_writer import partial_path


class JsonArrayWriter:
    """Writes a JSON array to a file element by element, one per line.

    It is a context manager. At its end the file gets its final name; after an error the file is
    deleted.

    Args:
        path: path of the file; its folder is created. None writes no file and only counts.

    Attributes:
        count: the number of elements so far.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.count = 0
        self._file: TextIO | None = None

    def __enter__(self) -> JsonArrayWriter:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = partial_path(self.path).open("w")
        return self

    def add(self, rows: list[dict]) -> None:
        """Appends elements."""
        for row in rows:
            if self._file:
                self._file.write(f"{',' if self.count else '['}\n{json.dumps(row)}")
            self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if not self._file:
            return
        self._file.write("\n]\n" if self.count else "[]\n")
        self._file.close()
        partial = partial_path(self.path)
        if kind is None:
            partial.replace(self.path)
        else:
            partial.unlink()
