"""Finding image files by what a user types."""

import glob
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = ["evenly", "find_images", "image_suffixes"]


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files that files, folders and glob patterns stand for: sorted, each once.

    Folders are not searched below their first level; a pattern with `**` is. A file that is
    named itself may have any suffix.

    Raises:
        FileNotFoundError: a file is missing, or a folder or pattern yields no image.
        OSError: a file is no image.
    """
    found = [file for text in inputs for file in _expand(os.fspath(text))]
    files = sorted({os.path.abspath(file): file for file in found}.values())
    for file in files:
        _check_header(file)
    return files


def evenly(count: int, wanted: int) -> list[int]:
    """Places of `wanted` of `count` things, spread evenly; of all, where there are no more."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        where, candidates = f"folder {text!r} holds no image", list(path.iterdir())
    elif set(text) & set("*?["):
        where = f"no image matches the pattern {text!r}"
        candidates = [Path(name) for name in glob.glob(text, recursive=True)]
    else:
        raise FileNotFoundError(f"there is no image or folder {text!r}")
    suffixes = image_suffixes()
    images = [x for x in candidates if x.suffix.lower() in suffixes and x.is_file()]
    if not images:
        raise FileNotFoundError(f"{where} (of {len(candidates)} files, none has an image's suffix)")
    return images


@cache
def image_suffixes() -> set[str]:
    """Of the formats that PIL reads; it also knows documents, films and measured data."""
    return {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    }


def _check_header(file: Path) -> None:
    """Finds what is no image before a long run reaches it."""
    try:
        Image.open(file).close()
    # PIL reports some broken files as SyntaxError
    except (OSError, SyntaxError) as error:
        raise OSError(f"cannot read image {file}: {error}") from error
