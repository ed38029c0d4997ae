"""Reads the headers of image files: size and EXIF orientation, or why a file cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from flowdet.data.image_reader import exif_orientation, image_size
from flowdet.terminal import image_bar

__all__ = ["ImageHeader", "read_error", "read_headers"]

# a progress bar is shown if more image files are opened than this
_MAX_QUIET = 5000


class ImageHeader(NamedTuple):
    """The header of an image file.

    Attributes:
        size: height and width of the upright image in pixels; None if the file cannot be read.
        orientation: the EXIF orientation, 1 to 8.
        error: the reason why the file cannot be read; "" if it can.
    """

    size: tuple[int, int] | None
    orientation: int = 1
    error: str = ""


def read_headers(paths: Sequence[Path]) -> list[ImageHeader]:
    """Reads the headers of image files, in order."""
    with ThreadPoolExecutor() as pool:
        headers = pool.map(_read_header, paths)
        return list(image_bar(headers, len(paths), shown=len(paths) > _MAX_QUIET))


def _read_header(path: Path) -> ImageHeader:
    try:
        return ImageHeader(image_size(path), exif_orientation(path))
    except (OSError, ValueError) as error:
        return ImageHeader(None, error=read_error(path, error))


def read_error(path: Path, error: Exception) -> str:
    """Returns the reason in an error of `read_image` or `image_size`, without the path."""
    return str(error).removeprefix(f"cannot read image {path}: ")
