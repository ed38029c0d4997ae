"""Finds image files from paths, folders and glob patterns."""

import glob
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = ["evenly_spaced_indices", "find_images", "image_suffixes"]


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the image files that files, folders and glob patterns name.

    Only the first level of a folder is searched; a pattern with `**` searches all levels. A file
    that is named directly may have any suffix.

    Args:
        inputs: paths of files or folders, or glob patterns.

    Returns:
        The sorted paths; each file is listed once.

    Raises:
        FileNotFoundError: a file does not exist, or a folder or pattern contains no image.
        OSError: a file is not an image that PIL can open.
    """
    matches = [file for text in inputs for file in _expand(os.fspath(text))]
    files = sorted({os.path.abspath(file): file for file in matches}.values())
    for file in files:
        _check_header(file)
    return files


def evenly_spaced_indices(length: int, count: int) -> list[int]:
    """Picks `count` evenly spaced indices of a list of `length` entries, or all if it has fewer."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        reason, candidates = f"folder {text!r} contains no image", list(path.iterdir())
    elif set(text) & set("*?["):
        reason = f"no image matches the pattern {text!r}"
        candidates = [Path(name) for name in glob.glob(text, recursive=True)]
    else:
        raise FileNotFoundError(f"there is no image or folder {text!r}")
    suffixes = image_suffixes()
    images = [x for x in candidates if x.suffix.lower() in suffixes and x.is_file()]
    if not images:
        raise FileNotFoundError(
            f"{reason}: {len(candidates)} files were examined, none has the suffix of an image"
        )
    return images


@cache
def image_suffixes() -> set[str]:
    """Returns the lower-case suffixes, such as ".jpg", of the image formats that PIL can read.

    Suffixes of documents, videos and scientific data, which PIL also reads, are left out.
    """
    return {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    }


def _check_header(file: Path) -> None:
    """Raises OSError if a file is not an image, so that a long run does not stop at it later."""
    try:
        Image.open(file).close()
    # PIL reports some broken files as SyntaxError
    except (OSError, SyntaxError) as error:
        raise OSError(f"cannot read image {file}: {error}") from error
