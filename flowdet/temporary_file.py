"""Temporary files, which get the name of the file to write once they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_START, _PARTIAL = "flowdet-", ".partial"


def new_temporary(path: str | Path, suffix: str | None = None) -> Path:
    """Creates an empty file in the folder of a path, under a name that no other file has.

    The name is random and the file must be new: so nothing that is there already, such as a
    symbolic link in a folder of somebody else, decides where the content goes, and two processes
    that write the same path do not write into one file.

    Args:
        path: the path.
        suffix: the suffix of the name, from which libraries take the format; that of the path if
            None.

    Raises:
        OSError: the file cannot be created. The error has the path.
    """
    check_name(path)
    path = Path(path)
    suffix = path.suffix if suffix is None else suffix
    while True:
        temporary = path.with_name(f"{_START}{secrets.token_hex(4)}{_PARTIAL}{suffix}")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        return temporary


def check_name(path: str | Path) -> None:
    """Checks that a file can have this name, which otherwise fails only when it gets it.

    Raises:
        OSError: the name is too long. The error has the path.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def temporary_file(path: str | Path, suffix: str | None = None) -> Iterator[Path]:
    """Gives the path of a new, empty file, which gets the name `path` at the end of the block.

    An existing file is replaced, also if it is a symbolic link: what that names stays as it is. An
    error in the block deletes the new file.

    Args:
        path, suffix: see `new_temporary`.

    Raises:
        OSError: the file cannot be created, written or renamed. The error has a path.
    """
    temporary = new_temporary(path, suffix)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # such as that of a full disk, which does not say where
        is_unnamed = isinstance(error, OSError) and error.filename in (None, str(temporary))
        if is_unnamed and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_temporary_files(folder: str | Path) -> None:
    """Deletes the files that a killed process was writing in a folder when it ended."""
    for path in Path(folder).glob(f"{_START}????????{_PARTIAL}*"):
        path.unlink(missing_ok=True)
