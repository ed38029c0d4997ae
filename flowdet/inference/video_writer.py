"""Writing films: videos of any length, animated GIFs, and a window for those who look on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flowdet.inference.video import quiet_opencv

# The codec by the suffix of the file: MPEG-4 part 2 and Motion JPEG are in every build of OpenCV
# and read by every player.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
ANIMATION_SUFFIXES = (".gif", ".mp4")
# per second in an animation; seconds that its first and its last frame stay
SPEED, FIRST, LAST = 16, 0.75, 2.5


class VideoWriter:
    """A video file that grows frame by frame.

    As a context manager it is kept if the block ends well, and deleted if it ends in an error.

    Args:
        path: its suffix, one of `CODECS`, decides the format; its folder is made.
        fps: frames per second.

    Raises:
        ValueError: no suffix of a video.
        OSError: OpenCV cannot write it (from `add`).
    """

    def __init__(self, path: Path, fps: float):
        check_video_name(path)
        self.path = path
        self.fps = fps
        self.count = 0
        self._partial = partial_path(path)
        self._writer: cv2.VideoWriter | None = None
        self._last: np.ndarray | None = None

    def add(self, picture: Image.Image, number: int | None = None) -> None:
        """The next frame, of the size of the first.

        Args:
            number: which frame it is, from 0. The frames that are missing before it repeat the
                last one, so that a camera's recording keeps the clock's pace.
        """
        frame = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._writer = self._open(picture.size)
        while self._last is not None and number is not None and self.count < number:
            self._write(self._last)
        self._write(frame)

    def _write(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self._last = frame
        self.count += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        with quiet_opencv():
            writer = cv2.VideoWriter(str(self._partial), codec, self.fps, size)
        if not writer.isOpened():
            raise OSError(
                f"OpenCV cannot write {self.path} ({size[0]}x{size[1]} pixels, {self.fps:g} frames "
                "per second): is the folder writable, and the file's suffix a video's?"
            )
        return writer

    def close(self, keep: bool = True) -> None:
        """Finishes the file and gives it its name, or deletes it."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if keep:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close(keep=kind is None)


def partial_path(path: Path) -> Path:
    """Where a file is written before it gets its name; its suffix tells the format."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def recording_path(output: str, source: str) -> Path:
    """The video file that `output` names, or the one in the folder that it names.

    Args:
        source: name of the video or camera, which the file in a folder gets.

    Raises:
        ValueError: it has the suffix of something else, or is the video itself.
    """
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir() or not path.suffix:
        name = Path(source.replace(" ", "_"))
        path = path / (name.name if name.suffix.lower() in CODECS else f"{name.stem}.mp4")
    check_video_name(path)
    if os.path.realpath(path) == os.path.realpath(source):
        raise ValueError(f"{path} is the video itself: write to another folder or name")
    return path


def check_video_name(path: Path) -> None:
    """Raises ValueError for a suffix that is no video's."""
    if path.suffix.lower() not in CODECS:
        raise ValueError(
            f"{path} has no suffix of a video: use one of {', '.join(CODECS)}, or give a folder"
        )


def save_animation(frames: Iterable[Image.Image], path: Path) -> None:
    """An animation, .gif or .mp4, that rests on its first and on its last frame."""
    frames = list(frames)
    if path.suffix.lower() == ".gif":
        _save_gif(frames, path)
        return
    stays = [1] * len(frames)
    stays[0], stays[-1] = round(FIRST * SPEED), round(LAST * SPEED)
    with VideoWriter(path, SPEED) as recording:
        for frame, times in zip(frames, stays):
            for _ in range(times):
                recording.add(frame)


def _save_gif(frames: list[Image.Image], path: Path) -> None:
    durations = [round(1000 / SPEED)] * len(frames)
    durations[0], durations[-1] = round(1000 * FIRST), round(1000 * LAST)
    # One palette for all, and no dithering, or what does not move would flicker. The colours
    # in between are mixtures of those at the ends.
    both = Image.new("RGB", (2 * frames[0].width, frames[0].height))
    both.paste(frames[0])
    both.paste(frames[-1], (frames[0].width, 0))
    palette = both.quantize(256, dither=Image.Dither.NONE)
    first, *rest = (x.quantize(palette=palette, dither=Image.Dither.NONE) for x in frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    first.save(partial, save_all=True, append_images=rest, duration=durations, loop=0)
    partial.replace(path)


class Window:
    """A window that shows pictures; q or Escape in it, or closing it, ends the show.

    Raises:
        ValueError: this OpenCV has no windows, or there is no display.
    """

    def __init__(self, title: str):
        if not has_windows():
            raise ValueError(
                "this OpenCV has no windows (opencv-python-headless): install opencv-python in "
                "its place, or give --output instead of --show"
            )
        # without one, Qt ends the whole program
        if sys.platform == "linux" and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise ValueError("there is no display (DISPLAY is not set): leave out --show")
        self.title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)

    def show(self, picture: Image.Image) -> bool:
        """Shows a picture; returns whether the user wants more."""
        cv2.imshow(self.title, cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
        pressed = cv2.waitKey(1) & 0xFF
        return pressed not in (27, ord("q")) and self._is_open()

    def _is_open(self) -> bool:
        return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        cv2.destroyWindow(self.title)


def has_windows() -> bool:
    """Whether OpenCV was built with a user interface."""
    return bool(cv2.currentUIFramework())
