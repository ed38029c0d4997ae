"""Writes videos frame by frame and animations, and shows frames in a window."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flowdet.config.errors import UsageError
from flowdet.inference.video import quiet_opencv
from flowdet.temporary_file import check_name, new_temporary, temporary_file

# The codec by the suffix of the file. Every build of OpenCV contains MPEG-4 part 2 and Motion JPEG,
# and common players read them.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
# frames per second of an animation, and the durations of its first and its last frame
ANIMATION_FPS, FIRST_FRAME_SECONDS, LAST_FRAME_SECONDS = 16, 0.75, 2.5


class VideoWriter:
    """Writes a video file frame by frame.

    It is a context manager. At its end the file gets its final name; after an error the file is
    deleted.

    Args:
        path: path of the file, whose suffix, one of `CODECS`, selects the format. Its folder is
            created.
        fps: frames per second.

    Attributes:
        count: the number of frames so far.

    Raises:
        ValueError: the suffix is not in `CODECS`.
        OSError: OpenCV cannot write the file (raised by `add`).
    """

    def __init__(self, path: Path, fps: float):
        check_video_suffix(path)
        self.path = path
        self.fps = fps
        self.count = 0
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._last: np.ndarray | None = None

    def add(self, picture: Image.Image, number: int | None = None) -> None:
        """Appends a frame.

        Args:
            picture: the frame, which must have the size of the first frame.
            number: number of the frame, from 0; None stands for the next number. The last frame is
                repeated for skipped numbers, so that the video of a slow camera keeps its speed.
        """
        frame = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._writer = self._open(picture.size)
        while self._last is not None and number is not None and self.count < number:
            self._write(self._last)
        self._write(frame)

    def _write(self, frame: np.ndarray) -> None:
        with quiet_opencv():
            self._writer.write(frame)
        self._last = frame
        self.count += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        create_folder_of(self.path)
        codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        self._temporary = new_temporary(self.path)
        with quiet_opencv():
            writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, size)
        if not writer.isOpened():
            self._temporary.unlink()
            raise OSError(
                f"OpenCV cannot write {self.path} ({size[0]}x{size[1]} pixels, {self.fps:g} frames "
                "per second): check that the folder is writable"
            )
        return writer

    def close(self, keep: bool = True) -> None:
        """Finishes the file and gives it its final name, or deletes it.

        Raises:
            OSError: the file does not have all frames.
        """
        if self._writer is None:
            return
        with quiet_opencv():
            self._writer.release()
        self._writer = None
        if keep and self._is_complete():
            self._temporary.replace(self.path)
            return
        self._temporary.unlink(missing_ok=True)
        if keep:
            raise OSError(
                f"cannot write {self.path}: OpenCV could not write all frames. Is the disk full?"
            )

    def _is_complete(self) -> bool:
        """Whether the last frame can be read: OpenCV does not say if it could not write one."""
        with quiet_opencv():
            video = cv2.VideoCapture(str(self._temporary))
            video.set(cv2.CAP_PROP_POS_FRAMES, self.count - 1)
            is_complete = video.grab()
            video.release()
        return is_complete

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close(keep=kind is None)


def create_folder_of(path: Path) -> None:
    """Creates the folder of a file.

    Raises:
        OSError: the folder cannot be created, or the name of the file is too long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write {path}, because its folder cannot be created ({reason}): give another "
            "path"
        ) from error
    check_name(path)


def video_output_path(output: str, source: str) -> Path:
    """Returns the video file to write: `output` itself, or a file in it if it is a folder.

    Args:
        output: path of a file, or of a folder: it exists, ends in a slash or has no suffix.
        source: name of the video or camera, after which a file in a folder is named.

    Raises:
        ValueError: the suffix is not in `CODECS`, or the file is the source itself.
    """
    path = Path(output)
    if output.endswith(("/", os.sep)) or os.path.isdir(path) or not path.suffix:
        name = Path(source.replace(" ", "_"))
        path = path / (name.name if name.suffix.lower() in CODECS else f"{name.stem}.mp4")
    check_video_suffix(path)
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError(f"{path} is the input video itself: write to another folder or name")
    return path


def check_video_suffix(path: Path) -> None:
    """Raises ValueError if `VideoWriter` cannot write files with this suffix."""
    if path.suffix.lower() not in CODECS:
        raise UsageError(
            f"{path} does not have the suffix of a video: use one of {', '.join(CODECS)}, or give "
            "a folder"
        )


def save_animation(frames: Iterable[Image.Image], path: Path) -> None:
    """Writes a .gif or .mp4 animation that shows its first and last frame longer.

    Args:
        frames: the frames, all of one size.
        path: path of the file; its folder is created.
    """
    frames = list(frames)
    if path.suffix.lower() == ".gif":
        _save_gif(frames, path)
        return
    repeats = [1] * len(frames)
    repeats[0] = round(FIRST_FRAME_SECONDS * ANIMATION_FPS)
    repeats[-1] = round(LAST_FRAME_SECONDS * ANIMATION_FPS)
    with VideoWriter(path, ANIMATION_FPS) as writer:
        for frame, count in zip(frames, repeats):
            for _ in range(count):
                writer.add(frame)


def _save_gif(frames: list[Image.Image], path: Path) -> None:
    durations = [round(1000 / ANIMATION_FPS)] * len(frames)
    durations[0], durations[-1] = (
        round(1000 * FIRST_FRAME_SECONDS),
        round(1000 * LAST_FRAME_SECONDS),
    )
    # One palette for all frames and no dithering; otherwise parts that do not move would flicker.
    # The palette is computed from the first and the last frame.
    both = Image.new("RGB", (2 * frames[0].width, frames[0].height))
    both.paste(frames[0])
    both.paste(frames[-1], (frames[0].width, 0))
    palette = both.quantize(256, dither=Image.Dither.NONE)
    first, *rest = (x.quantize(palette=palette, dither=Image.Dither.NONE) for x in frames)
    write_image(first, path, save_all=True, append_images=rest, duration=durations, loop=0)


def write_image(image: Image.Image, path: Path, **options) -> None:
    """Writes an image file; its folder is created. The file appears only when it is complete.

    The image is encoded in memory: PIL does not notice if a full disk takes only a part of a file.

    Args:
        image: the image.
        path: path of the file, whose suffix selects the format.
        **options: those of `Image.save`.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[path.suffix.lower()], **options)
    create_folder_of(path)
    with temporary_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


class Window:
    """A window that shows pictures until the user closes it or presses q or Escape.

    Args:
        title: title of the window.

    Raises:
        ValueError: this build of OpenCV has no windows, or (on Linux) there is no display.
    """

    def __init__(self, title: str):
        if not has_windows():
            raise ValueError(
                "this OpenCV has no windows (opencv-python-headless): install opencv-python in "
                "its place, or give --output instead of --show"
            )
        # without a display Qt would abort the whole program
        if sys.platform == "linux" and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise ValueError("there is no display (DISPLAY is not set): leave out --show")
        self.title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)

    def show(self, picture: Image.Image) -> bool:
        """Shows a picture; returns False if the user closed the window or pressed q or Escape."""
        cv2.imshow(self.title, cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
        pressed = cv2.waitKey(1) & 0xFF
        return pressed not in (27, ord("q")) and self._is_open()

    def _is_open(self) -> bool:
        return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyWindow(self.title)


def has_windows() -> bool:
    """Whether OpenCV was built with a user interface."""
    return bool(cv2.currentUIFramework())
