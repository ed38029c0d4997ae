"""Where the pictures of many results go: into a folder, or onto one sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from flowdet.inference.video_writer import partial_path, save_animation
from flowdet.visualization.animation import animation_frames
from flowdet.visualization.drawing import DetectionVisualizer, check_tiles, contact_sheet

# formats in which photographs are usually kept, and PIL writes; others become .png
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# one film of more images is too large to look at, and to keep
MAX_ANIMATED = 12


class Extras(NamedTuple):
    """What is drawn beside the detections.

    Attributes:
        times: t after every step of the trajectory of a result; none draw none.
        film: suffix of an animation of the travel of a result, `.gif` or `.mp4`; None makes none.
    """

    times: Sequence[float] = ()
    film: str | None = None

    def paths(self, picture: Path) -> list[Path]:
        """Where they go, beside a picture."""
        trajectory = [trajectory_path(picture)] if self.times else []
        return trajectory + ([trajectory_path(picture, self.film)] if self.film else [])


NOTHING = Extras()


def open_pictures(
    output: str, files: Sequence[Path], visualizer: DetectionVisualizer, extras: Extras = NOTHING
) -> PictureFolder | PictureSheet:
    """A sheet, where `output` has the suffix of a picture and is no folder; else a folder.

    Args:
        files: the images whose results will be added, in this order.
        extras: what is drawn beside.
    """
    kind = PictureFolder if names_folder(output) else PictureSheet
    return kind(Path(output), files, visualizer, extras)


def names_folder(output: str, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> bool:
    """Whether a name stands for a folder, and not for a file with one of the suffixes."""
    is_folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    return is_folder or Path(output).suffix.lower() not in suffixes


class PictureFolder:
    """One picture per image, under the image's name.

    Where images of several folders have the same name, the folders are kept below `folder`.

    Raises:
        FileExistsError: `folder` is a file.
        ValueError: two pictures, or a picture and an image, would be one file.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        visualizer: DetectionVisualizer,
        extras: Extras = NOTHING,
    ):
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: give a folder, or the name of a picture")
        self.path = folder
        self.visualizer = visualizer
        self.extras = extras
        self._targets = [folder / name for name in picture_names(files)]
        beside = [path for target in self._targets for path in extras.paths(target)]
        _check_distinct([*self._targets, *beside], files)
        self._next = iter(self._targets)

    def add(self, result: dict) -> None:
        target = next(self._next)
        save_picture(self.visualizer.picture(result), target)
        if self.extras.times:
            tiles = self.visualizer.steps(result)
            save_picture(
                contact_sheet(tiles, step_titles(self.extras.times), len(tiles)),
                trajectory_path(target),
            )
        if self.extras.film:
            frames = animation_frames(self.visualizer, [result], [target.stem])
            save_animation(frames, trajectory_path(target, self.extras.film))

    def close(self) -> None:
        """Nothing is left to write."""


class PictureSheet:
    """One sheet of all images, and one of all trajectories beside it: a row per image; and one
    film of all.

    Raises:
        ValueError: too many images for a sheet or a film, or one of them would replace an image.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        visualizer: DetectionVisualizer,
        extras: Extras = NOTHING,
    ):
        check_tiles(len(files) * max(len(extras.times), 1))
        if extras.film and len(files) > MAX_ANIMATED:
            raise ValueError(
                f"one film of {len(files)} images is too large (at most {MAX_ANIMATED}): write to a "
                "folder, which gets a film per image, or take fewer"
            )
        _check_distinct([path, *extras.paths(path)], files)
        self.path = path
        self.visualizer = visualizer
        self.extras = extras
        self._tiles: list[Image.Image] = []
        self._titles: list[str] = []
        self._step_tiles: list[Image.Image] = []
        self._step_titles: list[str] = []
        self._filmed: list[dict] = []

    def add(self, result: dict) -> None:
        path = Path(result["file_name"])
        self._tiles.append(self.visualizer.tile(result))
        self._titles.append(path.name)
        if self.extras.film:
            self._filmed.append(result)
        if self.extras.times:
            tiles = self.visualizer.steps(result)
            self._step_tiles += tiles
            self._step_titles += [
                f"{path.stem}: {title}" for title in step_titles(self.extras.times)
            ]

    def close(self) -> None:
        """Writes the sheets."""
        save_picture(contact_sheet(self._tiles, self._titles), self.path)
        if self.extras.times:
            sheet = contact_sheet(self._step_tiles, self._step_titles, len(self.extras.times))
            save_picture(sheet, trajectory_path(self.path))
        if self.extras.film:
            titles = [Path(title).stem for title in self._titles]
            frames = animation_frames(self.visualizer, self._filmed, titles)
            save_animation(frames, trajectory_path(self.path, self.extras.film))


def picture_names(files: Sequence[Path]) -> list[Path]:
    """A relative path for every image: its name, or its path below the folder they all share
    where names repeat."""
    names = [Path(file.name) for file in files]
    if len(set(names)) < len(names):
        absolute = [os.path.abspath(file) for file in files]
        shared = os.path.commonpath([os.path.dirname(file) for file in absolute])
        names = [Path(os.path.relpath(file, shared)) for file in absolute]
    known = [name.suffix.lower() in PICTURE_SUFFIXES for name in names]
    return [name if keep else name.with_suffix(".png") for name, keep in zip(names, known)]


def trajectory_path(picture: Path, suffix: str = ".png") -> Path:
    """Where the trajectory of a picture goes."""
    return picture.with_name(f"{picture.stem}_trajectory{suffix}")


def step_titles(times: Sequence[float]) -> list[str]:
    """Step and time t of the estimates of a trajectory."""
    return [f"step {i} of {len(times)}, t = {t:.2f}" for i, t in enumerate(times, start=1)]


def _check_distinct(written: Sequence[Path], files: Sequence[Path]) -> None:
    images = {os.path.realpath(file) for file in files}
    seen = set()
    for path in written:
        real = os.path.realpath(path)
        if real in images:
            raise ValueError(f"{path} is one of the images: write to another folder or name")
        if real in seen:
            raise ValueError(f"two images would both be drawn to {path}: run them one by one")
        seen.add(real)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Under a temporary name first, so that no half-written picture is taken for a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    picture.save(partial, quality=95)
    partial.replace(path)
