"""Finds image files from paths, folders and glob patterns."""

import glob
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = [
    "SPECIAL_FILE",
    "conversion_hint",
    "evenly_spaced_indices",
    "find_images",
    "image_suffixes",
    "is_hidden",
    "is_special_file",
    "left_out_message",
    "names_of",
    "passed_over_message",
]

logger = logging.getLogger(__name__)

SPECIAL_FILE = "it is a pipe or a device, not a file"
# a message names at most this many files
_MAX_NAMED = 5

# Suffixes of pictures that PIL reads only with an extension, or not at all: of phones, of cameras
# (raw data), of vector graphics, of medicine and of image editors. Suffixes that this PIL reads are
# left out, see `image_suffixes`.
_PICTURE_SUFFIXES = frozenset(
    ".heic .heif .hif .avif .avifs .jxl .jp2 .j2k .jpf .jpx .webp "
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mos .mrw .nef .nrw .orf .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f "
    ".svg .svgz .eps .ai .wmf .emf .dcm .dicom .nii .exr .hdr .fits .fit .xcf .psb .kra "
    ".blp .cur .dcx .dds .gbr .im .mpo .msp .pcd .pxr .qoi .ras".split()
)


def find_images(
    inputs: Iterable[str | Path], report: Callable[[str], None] = logger.warning
) -> list[Path]:
    """Lists the image files that files, folders and glob patterns name. No file is opened.

    Only the first level of a folder is searched; a pattern with `**` searches all levels. Hidden
    files of a folder, such as `._a.jpg`, are left out. A file that is named directly may have any
    suffix.

    Args:
        inputs: paths of files or folders, or glob patterns.
        report: called with a message if pictures in formats that cannot be read (HEIC, raw data of
            cameras, ...) are passed over, and with one if files without the suffix of an image or
            subfolders are left out.

    Returns:
        The sorted paths; each file is listed once.

    Raises:
        FileNotFoundError: a file does not exist, or a folder or pattern contains no image that can
            be read.
    """
    lists: tuple[dict[str, Path], ...] = ({}, {}, {})
    for text in inputs:
        for known, paths in zip(lists, _expand(os.fspath(text)), strict=True):
            known |= {os.path.abspath(path): path for path in paths}
    images, unreadable, others = lists
    # of a file that is also named directly, its own error will tell
    for paths, message in ((unreadable, passed_over_message), (others, left_out_message)):
        named = sorted(paths[key] for key in paths.keys() - images.keys())
        if named:
            report(message(named))
    return sorted(images.values())


def evenly_spaced_indices(length: int, count: int) -> list[int]:
    """Picks `count` evenly spaced indices of a list of `length` entries, or all if it has fewer."""
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def is_hidden(path: Path) -> bool:
    """Whether the name of a file begins with a dot, as that of `._a.jpg` (written by macOS)."""
    return path.name.startswith(".")


def is_special_file(path: str | Path) -> bool:
    """Whether a path is a pipe or a device: reading it may never end. A URL is none."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


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


def conversion_hint(path: str | Path) -> str:
    """Returns advice for a picture in a format that cannot be read; "" for all other files."""
    return ": convert it to jpg or png" if _is_unreadable_picture(Path(path)) else ""


def passed_over_message(paths: Sequence[Path]) -> str:
    """Returns a message about pictures whose format cannot be read."""
    pronoun = "it" if len(paths) == 1 else "them"
    return f"passed over: {names_of(paths)}: convert {pronoun} to jpg or png"


def left_out_message(paths: Sequence[Path]) -> str:
    """Returns a message about files without the suffix of an image, and folders."""
    files, folders = ([x for x in paths if x.is_dir() is is_folder] for is_folder in (False, True))
    parts = [
        f"{len(group)} {kind}{'s' if len(group) > 1 else ''}{why} ({names_of(group)})"
        for group, kind, why in (
            (files, "file", " without the suffix of an image"),
            (folders, "folder", ""),
        )
        if group
    ]
    return f"left out: {' and '.join(parts)}"


def _is_unreadable_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in _PICTURE_SUFFIXES and suffix not in image_suffixes()


def _expand(text: str) -> tuple[list[Path], list[Path], list[Path]]:
    """Returns the images that a path or pattern names, the pictures that cannot be read, and the
    other files and folders that are left out."""
    path = Path(text)
    if not text:
        raise FileNotFoundError("there is no image or folder '': the name is empty")
    if os.path.isfile(path):
        return [path], [], []
    if os.path.isdir(path):
        reason = f"folder {text!r} contains no image"
        candidates = [x for x in path.iterdir() if not is_hidden(x)]
    elif set(text) & set("*?["):
        reason = f"no image matches the pattern {text!r}"
        candidates = [Path(name) for name in glob.glob(text, recursive=True)]
    else:
        raise FileNotFoundError(f"there is no image or folder {text!r}")
    suffixes = image_suffixes()
    # also links to nothing and pipes: reading them tells their names
    files = [x for x in candidates if not x.is_dir()]
    images = [x for x in files if x.suffix.lower() in suffixes]
    unreadable = sorted(x for x in files if _is_unreadable_picture(x))
    if images:
        rest = {*candidates} - {*images} - {*unreadable}
        # with ** they are searched
        return images, unreadable, [x for x in rest if "**" not in text or not x.is_dir()]
    if unreadable:
        raise FileNotFoundError(
            f"{reason} that can be read: convert {names_of(unreadable)} to jpg or png"
        )
    raise FileNotFoundError(
        f"{reason}: {len(files)} files were examined, none has the suffix of an image"
    )


def names_of(files: Sequence[Path]) -> str:
    """Lists the names of files, and the number of further ones."""
    # a blank at the end would not be seen
    shown = [repr(x.name) if x.name != x.name.strip() else x.name for x in files[:_MAX_NAMED]]
    names = ", ".join(shown)
    more = len(files) - _MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names
