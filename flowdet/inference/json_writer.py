"""A JSON file of any number of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from flowdet.inference.video_writer import partial_path


class JsonArrayWriter:
    """A JSON array that is written while it grows, one row a line; of None, nothing is written.

    As a context manager: the file gets its name when the block ends well, and is deleted if it
    ends in an error.
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
