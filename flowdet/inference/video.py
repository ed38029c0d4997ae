"""Reads the frames of video files and cameras."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

# frames per second of a source that reports no valid number
_DEFAULT_FPS = 25.0

# Silences FFmpeg's own messages about unreadable files. OpenCV reads the variable when it opens its
# first video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

logger = logging.getLogger(__name__)


class Frames:
    """Iterates over the frames of a source and yields them as dicts for a predictor.

    Each dict has `image` (uint8 RGB [H, W, 3]), `file_name` (the name of the source) and
    `image_id` (the number of the frame, from 0).

    Attributes:
        name: name of the source.
        fps: frames per second.
        count: the number of frames; None if unknown.
    """

    count: int | None = None

    def __init__(self, name: str, capture: cv2.VideoCapture):
        self.name = name
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 480 else _DEFAULT_FPS

    def __iter__(self) -> Iterator[dict]:
        number = -1
        while True:
            success, frame = self._capture.read()
            if not success:
                return
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number = self._next_number(number)
            yield {"image": pixels, "file_name": self.name, "image_id": number}

    def _next_number(self, number: int) -> int:
        """Returns the number of the frame that is read after frame `number`."""
        return number + 1

    def close(self) -> None:
        """Releases the file or camera."""
        self._capture.release()


class VideoFile(Frames):
    """A video file of any format that OpenCV reads.

    It can be iterated once. A warning is logged if the file ends before the number of frames that
    it reports.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file is not a video, or (while iterating) none of its frames can be read.
    """

    def __init__(self, path: str | Path):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no video file {str(path)!r}")
        with quiet_opencv():
            capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise OSError(f"cannot read {path}: OpenCV finds no video in it")
        super().__init__(str(path), capture)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def __iter__(self) -> Iterator[dict]:
        num_read = 0
        for frame in super().__iter__():
            num_read += 1
            yield frame
        if not num_read:
            raise OSError(f"cannot read {self.name}: none of its frames can be decoded")
        if self.count and num_read < self.count:
            logger.warning(
                "%s should have %d frames, but ends after %d: the file may be damaged",
                self.name,
                self.count,
                num_read,
            )


class Camera(Frames):
    """A camera, which yields frames without end.

    The number of a frame is computed from the clock, so numbers are skipped if the model is slower
    than the camera.

    Args:
        index: number of the camera, from 0.
        clock: returns the time in seconds.

    Raises:
        OSError: the camera cannot be opened, or (while iterating) it returns no image.
    """

    def __init__(self, index: int, clock: Callable[[], float] = time.monotonic):
        with quiet_opencv():
            capture = cv2.VideoCapture(index)
        if not capture.isOpened():
            raise OSError(
                f"cannot open camera {index}: it is not connected, or another program uses it"
            )
        super().__init__(f"camera {index}", capture)
        self._clock = clock

    def __iter__(self) -> Iterator[dict]:
        self._start = None
        has_image = False
        for frame in super().__iter__():
            has_image = True
            yield frame
        if not has_image:
            raise OSError(f"{self.name} returns no image")
        logger.warning("%s returns no more images", self.name)

    def _next_number(self, number: int) -> int:
        if self._start is None:
            self._start = self._clock()
        return max(number + 1, int((self._clock() - self._start) * self.fps))


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silences OpenCV's log, for calls whose errors flowdet reports itself."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
