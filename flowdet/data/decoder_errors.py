"""Errors and warnings of image decoders: one line per unreadable image, and no warnings."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import cv2
from PIL import Image

__all__ = ["one_line_errors"]


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Raises every error of a decoder as an OSError with the name of the image and the reason.

    Warnings of the decoders are suppressed: they concern large images, which are read, and broken
    metadata.
    """
    try:
        with _QUIET:
            yield
    # Decoders report broken files as OSError, SyntaxError, ValueError, struct.error, zlib.error and
    # more.
    except Exception as error:
        raise OSError(f"cannot read image {name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        pixels = str(error).partition(", could be")[0]
        return f"{pixels}: cut the image into tiles, or scale it down"
    if isinstance(error, MemoryError):
        return "there is not enough memory: cut the image into tiles, or scale it down"
    if isinstance(error, OSError):
        return error.strerror or _single_line(error)
    return f"the file is damaged ({_single_line(error)})"


def _single_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _QuietDecoders:
    """A context in which PIL issues no warnings and OpenCV logs nothing, in all threads.

    The first thread that enters it saves the settings of the process, and the last one that leaves
    it restores them. `warnings.catch_warnings` alone would let a thread restore the settings that
    another thread has made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._settings = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads > 1:
                return
            self._settings.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            log = cv2.utils.logging
            self._settings.callback(log.setLogLevel, log.setLogLevel(log.LOG_LEVEL_SILENT))

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._settings.close()


_QUIET = _QuietDecoders()
