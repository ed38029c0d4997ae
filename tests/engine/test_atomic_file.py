"""Files that are complete or not there."""

import errno
import os
import signal
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from flowdet.engine.atomic_file import (
    DiskError,
    disk_errors,
    full_disk_errors,
    write_atomically,
)
from flowdet.stop_signals import stop_signals


def failing_file(code, after=0):
    """Returns a function that writes some bytes and then fails like a full disk."""

    def write(file):
        file.write(b"x" * after)
        raise OSError(code, os.strerror(code))

    return write


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    assert write_atomically(path, lambda file: file.write(b"first")) == path
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            write_atomically(path, mock.Mock(side_effect=error))
        assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, events = tmp_path / "file", []
    fsync = os.fsync

    def record(handle):
        events.append(path.exists())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, lambda file: file.write(b"content"))
    # the file, then its folder
    assert events == [False, True]


def test_a_full_disk_is_one_line_with_path_and_need(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"earlier")
    usage = SimpleNamespace(free=3 * 2**20)
    monkeypatch.setattr("flowdet.engine.atomic_file.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError) as caught:
        write_atomically(path, failing_file(errno.ENOSPC, after=10), size=5 * 2**20)
    expected = (
        f"{path} cannot be written: the disk of {tmp_path} is full: the file needs 5.0 MiB, and "
        "3.0 MiB are free. Delete files, or set OUTPUT_DIR to a folder on another disk"
    )
    assert str(caught.value) == expected and caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["file"]


def test_another_error_names_the_path(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}/gone/file cannot be written: No such file"):
        write_atomically(tmp_path / "gone" / "file", lambda file: None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
@pytest.mark.parametrize("buffering", [0, 2**16])
def test_a_full_disk_ends_torch_save_in_one_line(buffering):
    with pytest.raises(OSError, match="^checkpoint cannot be written: the disk of . is full"):
        with disk_errors("checkpoint"), open("/dev/full", "wb", buffering=buffering) as file:
            torch.save({"model": torch.zeros(10**5)}, file)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_torch_save_comes_after_it(tmp_path, number):
    """In it, torch would raise another error, or end the process."""
    path, written = tmp_path / "checkpoint", []

    def save(file):
        def write(data):
            signal.raise_signal(number)
            return file.write(data)

        torch.save({"model": torch.zeros(10**5)}, SimpleNamespace(write=write, flush=file.flush))
        written.append(path)

    with stop_signals():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, save)
        assert signal.getsignal(number) == before
    assert written and os.listdir(tmp_path) == []


def test_errors_that_are_not_of_the_disk_stay():
    with pytest.raises(RuntimeError, match="^other$"), disk_errors("file"):
        raise RuntimeError("other")


def test_a_full_disk_without_a_path_gets_the_folder():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(DiskError, match="^run cannot be written to: the disk of run is full. Del"):
        with full_disk_errors("run"):
            raise full
    # an error that has a path already, and another error
    for error in (DiskError("a message"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(OSError) as caught, full_disk_errors("run"):
            raise error
        assert caught.value is error
