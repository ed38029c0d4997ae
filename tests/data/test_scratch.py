"""Temporary folders that a killed process does not leave behind."""

import atexit
import os
import signal
import time
from pathlib import Path

import pytest

from flowdet.data.scratch import _root, scratch_folder


def test_a_folder_is_deleted_like_a_temporary_folder():
    with scratch_folder("first_") as name:
        (Path(name) / "file").write_text("x")
        root = Path(name).parent
    assert not Path(name).exists() and root.is_dir()
    # all folders of a process are in one
    assert Path(scratch_folder("second_").name).parent == root


FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and a POSIX shell")


@FORK
def test_the_end_does_not_wait_for_forked_processes():
    """Such as those that load data, after an error in an evaluation."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writable)
        # not that of the tests
        _root.cache_clear()
        registered = []
        atexit.register = lambda *call: registered.append(call)
        folder = scratch_folder("forked_")
        if os.fork() == 0:
            # until the tests close it
            os.read(readable, 1)
            os._exit(0)
        root = Path(folder.name).parent
        for function, *arguments in registered:
            function(*arguments)
        os._exit(int(root.exists()))
    end = time.monotonic() + 20
    ended, status = 0, None
    while not ended and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    os.close(writable)
    os.close(readable)
    if not ended:
        _, status = os.waitpid(child, 0)
    assert ended and status == 0


@FORK
def test_a_killed_process_leaves_no_folder():
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        folder = scratch_folder("killed_")
        (Path(folder.name) / "file").write_text("x")
        os.write(writable, folder.name.encode())
        os.kill(os.getpid(), signal.SIGKILL)
    name = Path(os.read(readable, 1000).decode())
    os.close(readable)
    os.close(writable)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    end = time.monotonic() + 20
    while name.parent.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not name.parent.exists()
