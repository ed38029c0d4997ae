"""The folder of a run: one training writes there, and nothing that it writes is elsewhere."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
# Windows
except ImportError:
    fcntl = None

from flowdet.engine.metrics_file import METRICS

# the folder in it for what --eval-only writes
EVALUATION = "eval"
CONFIG = "config.yaml"
# the config, and what is written in place; all else gets its name when it is complete, or a new one
_FILES = (CONFIG, METRICS, "log.txt*")
_FOLDERS = ("inference", "inference_ema", EVALUATION)


def check_output_folder(folder: str | Path) -> None:
    """Checks that what a run writes in place is in its folder. The folder itself may be a link.

    Otherwise a training in the folder of somebody else would change the file that a link names.

    Raises:
        OSError: a file or a folder that is written is a symbolic link to one elsewhere, or it is no
            file or no folder.
    """
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    for patterns, kind, is_kind in (
        (_FILES, "file", Path.is_file),
        (_FOLDERS, "folder", Path.is_dir),
    ):
        for name in [x for pattern in patterns for x in fnmatch.filter(names, pattern)]:
            path = folder / name
            if path.is_symlink() and not _is_inside(path, folder):
                raise OSError(
                    f"{path} is a symbolic link to {path.readlink()}, to which the run would "
                    "write: delete the link, or set another OUTPUT_DIR"
                )
            if not is_kind(path):
                raise OSError(
                    f"{path} is no {kind}, but the run writes a {kind} of this name: move it "
                    "away, or set another OUTPUT_DIR"
                )


def _is_inside(link: Path, folder: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(folder.resolve())
    # it names nothing, or (RuntimeError before Python 3.13) itself
    except (OSError, RuntimeError):
        return False


@contextlib.contextmanager
def locked_folder(folder: str | Path) -> Iterator[None]:
    """Locks the folder of a run for the training in the block.

    The lock is that of an open folder: nothing is written, and it ends with the process, also if
    that is killed. On file systems without locks, and on Windows, nothing is locked.

    Raises:
        OSError: another training has the lock.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    # a process that loads data may end later than the training
    is_open = [True]
    os.register_at_fork(after_in_child=lambda: is_open and os.close(handle))
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                f"another training writes to OUTPUT_DIR {folder}: wait until it has ended, or set "
                "another OUTPUT_DIR"
            ) from error
        except OSError:
            pass
        yield
    finally:
        is_open.clear()
        os.close(handle)
