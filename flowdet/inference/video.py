"""Frames of video files and cameras, one after the other."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

# frames per second, where the source does not say, or says what cannot be
_USUAL_FPS = 25.0

# FFmpeg's own lines on files that it cannot read; OpenCV looks here before its first video
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

logger = logging.getLogger(__name__)


class Frames:
    """The frames of a source, as dicts for a predictor, read when they are asked for.

    Each has `image` (uint8 RGB [H, W, 3]), `file_name` (the name of the source) and `image_id`,
    the number of the frame from 0.

    Attributes:
        name: of the source.
        fps: frames per second.
        count: how many there will be; None if nobody knows.
    """

    count: int | None = None

    def __init__(self, name: str, capture: cv2.VideoCapture):
        self.name = name
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 480 else _USUAL_FPS

    def __iter__(self) -> Iterator[dict]:
        number = -1
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number = self._next(number)
            yield {"image": pixels, "file_name": self.name, "image_id": number}

    def _next(self, number: int) -> int:
        """The number of the frame after one."""
        return number + 1

    def close(self) -> None:
        self._capture.release()


class VideoFile(Frames):
    """A video file, of any format that OpenCV reads.

    Iterating warns if the file ends before it says; it can be done once.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is no video, or none of its frames can be read.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no video file {str(path)!r}")
        with quiet_opencv():
            capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise OSError(f"cannot read {path}: OpenCV finds no video in it")
        super().__init__(str(path), capture)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def __iter__(self) -> Iterator[dict]:
        found = 0
        for frame in super().__iter__():
            found += 1
            yield frame
        if not found:
            raise OSError(f"cannot read {self.name}: none of its frames can be decoded")
        if self.count and found < self.count:
            logger.warning(
                "%s should have %d frames, but ends after %d: is it whole?",
                self.name,
                self.count,
                found,
            )


class Camera(Frames):
    """A camera, endless. Its frames are numbered by the clock: where the model is slower than the
    camera, numbers are left out.

    Args:
        index: of the camera, from 0.
        clock: seconds.

    Raises:
        OSError: there is no such camera, or (while iterating) it gives no image at all.
    """

    def __init__(self, index: int, clock: Callable[[], float] = time.monotonic):
        with quiet_opencv():
            capture = cv2.VideoCapture(index)
        if not capture.isOpened():
            raise OSError(f"cannot open camera {index}: is one connected, and free?")
        super().__init__(f"camera {index}", capture)
        self._clock = clock

    def __iter__(self) -> Iterator[dict]:
        self._start = None
        found = False
        for frame in super().__iter__():
            found = True
            yield frame
        if not found:
            raise OSError(f"{self.name} gives no image")
        logger.warning("%s gives no more images", self.name)

    def _next(self, number: int) -> int:
        if self._start is None:
            self._start = self._clock()
        return max(number + 1, int((self._clock() - self._start) * self.fps))


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Without OpenCV's own lines on what cannot be opened: we say it in one."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
