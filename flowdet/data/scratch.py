"""Temporary folders that are deleted even if the process is killed."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache

# waits until its input is closed, which happens when the process ends in any way
_DELETE = 'cat > /dev/null; rm -rf -- "$1"'


def scratch_folder(prefix: str) -> tempfile.TemporaryDirectory:
    """Returns a temporary folder, which is deleted like `tempfile.TemporaryDirectory`.

    It is also deleted if the process is killed, where there is a POSIX shell.
    """
    return tempfile.TemporaryDirectory(prefix=prefix, dir=_root(os.getpid()))


@cache
def _root(process: int) -> str:
    """Creates the folder of a process that contains all its temporary folders."""
    folder = tempfile.mkdtemp(prefix="flowdet_")
    try:
        # in its own session, so that Ctrl-C does not end it
        cleaner = subprocess.Popen(
            ["sh", "-c", _DELETE, "sh", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        cleaner = None
    if cleaner is not None and hasattr(os, "register_at_fork"):
        # a process that loads data would keep the input open, and the end of this process would
        # wait for it forever
        os.register_at_fork(after_in_child=cleaner.stdin.close)
    atexit.register(_delete, folder, cleaner, process)
    return folder


def _delete(folder: str, cleaner: subprocess.Popen | None, process: int) -> None:
    # not at the end of a forked process
    if os.getpid() != process:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if cleaner is not None:
        cleaner.communicate()
