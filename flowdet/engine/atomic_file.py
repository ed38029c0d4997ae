"""Writes files that are complete or not there, also after a crash or on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from flowdet.stop_signals import deferred_signals
from flowdet.temporary_file import temporary_file

_MIB = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], size: int | None = None
) -> Path:
    """Writes a file under a temporary name, flushes it to the disk and renames it.

    If the process is killed, an existing file stays as it is. Ctrl-C is handled after the content
    is written.

    Args:
        path: path of the file. Its folder must exist.
        write: writes the content to an open binary file.
        size: bytes that the file needs, for the message if the disk is full.

    Returns:
        The path of the file.

    Raises:
        DiskError: the file cannot be written. The message has the path and, on a full disk, the
            space that is needed and the space that is free.
    """
    path = Path(path)
    with disk_errors(path, size):
        with temporary_file(path) as temporary, open(temporary, "wb") as file:
            with deferred_signals():
                write(file)
            file.flush()
            os.fsync(file.fileno())
        _flush_folder(path.parent)
    return path


class DiskError(OSError):
    """A file cannot be written; the message has its path."""


@contextlib.contextmanager
def disk_errors(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Replaces the errors of writing a file by one whose line has its path.

    Args:
        path: path of the file.
        size: bytes that the file needs; None if that is not known.

    Raises:
        DiskError: an OSError in the block, or an error that it caused. It has its `errno`.
    """
    try:
        yield
    except DiskError:
        raise
    # torch raises RuntimeError if its writer cannot write
    except (OSError, RuntimeError) as error:
        first = _first_os_error(error)
        if first is None:
            raise
        reason = first.strerror or str(first)
        if first.errno in _FULL:
            reason = _full_disk(Path(path).parent, size)
        raised = DiskError(f"{path} cannot be written: {reason}")
        raised.errno = first.errno
        raise raised from error


@contextlib.contextmanager
def full_disk_errors(folder: str | Path) -> Iterator[None]:
    """Replaces the error of a full disk, which does not say where, by one that names a folder.

    Args:
        folder: the folder to which the block writes.

    Raises:
        DiskError: the disk is full.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskError(f"{folder} cannot be written to: {_full_disk(folder, None)}") from error


def _full_disk(folder: str | Path, size: int | None) -> str:
    text = f"the disk of {folder} is full"
    if size is not None:
        free = shutil.disk_usage(folder).free
        text += f": the file needs {_mib(size)}, and {_mib(free)} are free"
    return f"{text}. Delete files, or set OUTPUT_DIR to a folder on another disk"


def _first_os_error(error: BaseException | None) -> OSError | None:
    """Returns the first OSError in the chain that led to an error; None if there is none."""
    first = None
    while error is not None:
        first = error if isinstance(error, OSError) else first
        error = error.__cause__ or error.__context__
    return first


def _flush_folder(folder: Path) -> None:
    """Flushes a renamed name to the disk; only POSIX systems can open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
