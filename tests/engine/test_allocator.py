"""The memory allocator's setting."""

import ctypes
import platform
import resource

import pytest

from flowdet.engine import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")
def test_large_buffers_are_reused():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    # above the 32 MiB up to which glibc may keep buffers by itself
    size = 64 * 2**20

    def new_pages():
        """The pages that the system gives to the process for a buffer that is written and freed."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffer = libc.malloc(ctypes.c_size_t(size))
        ctypes.memset(buffer, 1, size)
        libc.free(ctypes.c_void_p(buffer))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    new_pages()
    count = new_pages()
    if not libc.mallopt(-3, 2**30):
        pytest.skip("this glibc cannot keep more than 32 MiB")
    # without the setting it is all of them
    assert count < size / resource.getpagesize() / 10


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(ctypes, "CDLL", None)
    keep_freed_memory()
