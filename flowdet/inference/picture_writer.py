"""Writes pictures of detections: one per image into a folder, or all on one sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from flowdet.config.errors import UsageError
from flowdet.inference.output_formats import PICTURE_SUFFIXES
from flowdet.inference.video_writer import create_folder_of, save_animation, write_image
from flowdet.visualization.animation import animation_frames
from flowdet.visualization.drawing import DetectionVisualizer, check_tiles, contact_sheet

# the maximum number of images in one animation, which limits the size of its file
MAX_ANIMATED = 12
# pixels from which a .png is compressed less, in a fifth of the time
LARGE_PICTURE = 10_000_000


class TrajectoryOutputs(NamedTuple):
    """The pictures of the trajectory that are written in addition to the detections.

    Attributes:
        step_times: the time t after every step, for a sheet with the detections after each step.
            Empty writes no such sheet.
        animation_suffix: `.gif` or `.mp4` for an animation of the boxes from noise to detections.
            None writes no animation.
    """

    step_times: Sequence[float] = ()
    animation_suffix: str | None = None

    def paths(self, picture: Path) -> list[Path]:
        """Returns the paths of the trajectory files that belong to a picture."""
        suffixes = [".png"] if self.step_times else []
        suffixes += [self.animation_suffix] if self.animation_suffix else []
        return [trajectory_path(picture, suffix) for suffix in suffixes]


NO_TRAJECTORY = TrajectoryOutputs()


def open_picture_writer(
    output: str,
    files: Sequence[Path],
    visualizer: DetectionVisualizer,
    trajectory: TrajectoryOutputs = NO_TRAJECTORY,
) -> FolderWriter | SheetWriter:
    """Returns a `FolderWriter` if `output` names a folder, otherwise a `SheetWriter`.

    Args:
        output: path of the folder or of the sheet, see `names_folder`.
        files: the images whose results will be added; the results of some may be missing.
        visualizer: draws the detections.
        trajectory: the pictures of the trajectory to write as well.

    Raises:
        FileExistsError, ValueError: as `FolderWriter` and `SheetWriter`.
    """
    kind = FolderWriter if names_folder(output) else SheetWriter
    return kind(Path(output), files, visualizer, trajectory)


def names_folder(output: str, suffixes: Sequence[str] = PICTURE_SUFFIXES) -> bool:
    """Whether a path is a folder, ends in a slash or has none of the suffixes."""
    is_folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    return is_folder or Path(output).suffix.lower() not in suffixes


class FolderWriter:
    """Writes one picture per image, under the name of the image.

    If two images have the same name, the pictures keep the folder structure of the images.

    Args:
        folder: folder of the pictures, which is created.
        files, visualizer, trajectory: see `open_picture_writer`.

    Raises:
        FileExistsError: `folder` is a file.
        OSError: the folder cannot be created.
        ValueError: two pictures would have the same path, or a picture would replace an image.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        visualizer: DetectionVisualizer,
        trajectory: TrajectoryOutputs = NO_TRAJECTORY,
    ):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise FileExistsError(f"{folder} is a file: give a folder or a name like sheet.png")
        self.path = folder
        self.visualizer = visualizer
        self.trajectory = trajectory
        pictures = [folder / name for name in picture_names(files)]
        trajectories = [path for picture in pictures for path in trajectory.paths(picture)]
        _check_distinct([*pictures, *trajectories], files)
        self._pictures = {os.fspath(file): path for file, path in zip(files, pictures, strict=True)}
        # an error before the first image is processed
        for picture in pictures:
            create_folder_of(picture)

    def add(self, result: dict) -> None:
        """Writes the pictures of an image, whose path is `file_name` of the result."""
        path = self._pictures[result["file_name"]]
        save_picture(self.visualizer.picture(result), path)
        if self.trajectory.step_times:
            tiles = self.visualizer.steps(result)
            titles = step_titles(self.trajectory.step_times)
            save_picture(contact_sheet(tiles, titles, len(tiles)), trajectory_path(path))
        if self.trajectory.animation_suffix:
            frames = animation_frames(self.visualizer, [result], [path.stem])
            save_animation(frames, trajectory_path(path, self.trajectory.animation_suffix))

    def close(self) -> None:
        """Does nothing, because every picture is written when its result is added."""


class SheetWriter:
    """Writes one sheet of all images. If requested, it also writes a sheet of the trajectories (a
    row per image) and an animation of all images.

    Args:
        path: path of the sheet.
        files, visualizer, trajectory: see `open_picture_writer`.

    Raises:
        ValueError: there are too many images for a sheet or an animation, or a picture would
            replace an image.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        visualizer: DetectionVisualizer,
        trajectory: TrajectoryOutputs = NO_TRAJECTORY,
    ):
        check_tiles(len(files) * max(len(trajectory.step_times), 1))
        if trajectory.animation_suffix and len(files) > MAX_ANIMATED:
            raise UsageError(
                f"one animation of {len(files)} images is too large (at most {MAX_ANIMATED}): "
                "write to a folder for one animation per image, or use fewer images"
            )
        _check_distinct([path, *trajectory.paths(path)], files)
        # an error before the first image is processed
        create_folder_of(path)
        self.path = path
        self.visualizer = visualizer
        self.trajectory = trajectory
        self._tiles: list[Image.Image] = []
        self._titles: list[str] = []
        self._step_tiles: list[Image.Image] = []
        self._step_titles: list[str] = []
        self._animated: list[dict] = []

    def add(self, result: dict) -> None:
        """Draws the tiles of the next image."""
        path = Path(result["file_name"])
        self._tiles.append(self.visualizer.tile(result))
        self._titles.append(path.name)
        if self.trajectory.animation_suffix:
            self._animated.append(result)
        if self.trajectory.step_times:
            titles = step_titles(self.trajectory.step_times)
            self._step_tiles += self.visualizer.steps(result)
            self._step_titles += [f"{path.stem}: {title}" for title in titles]

    def close(self) -> None:
        """Writes the sheets and the animation; without any image it writes nothing."""
        if not self._tiles:
            return
        save_picture(contact_sheet(self._tiles, self._titles), self.path)
        if self.trajectory.step_times:
            columns = len(self.trajectory.step_times)
            sheet = contact_sheet(self._step_tiles, self._step_titles, columns)
            save_picture(sheet, trajectory_path(self.path))
        if self.trajectory.animation_suffix:
            titles = [Path(title).stem for title in self._titles]
            frames = animation_frames(self.visualizer, self._animated, titles)
            save_animation(frames, trajectory_path(self.path, self.trajectory.animation_suffix))


def picture_names(files: Sequence[Path]) -> list[Path]:
    """Returns the relative path of the picture of every image: the file name of the image. If two
    images have the same name, it is the path below the common folder of all images."""
    names = [Path(file.name) for file in files]
    if len(set(names)) < len(names):
        absolute = [os.path.abspath(file) for file in files]
        common = os.path.commonpath([os.path.dirname(file) for file in absolute])
        names = [Path(os.path.relpath(file, common)) for file in absolute]
    known = [name.suffix.lower() in PICTURE_SUFFIXES for name in names]
    return [name if keep else name.with_suffix(".png") for name, keep in zip(names, known)]


def trajectory_path(picture: Path, suffix: str = ".png") -> Path:
    """Returns the path of the trajectory file that belongs to a picture."""
    return picture.with_name(f"{picture.stem}_trajectory{suffix}")


def step_titles(times: Sequence[float]) -> list[str]:
    """Returns the titles of the tiles of a trajectory: step number and time t."""
    return [f"step {i} of {len(times)}, t = {t:.2f}" for i, t in enumerate(times, start=1)]


def _check_distinct(pictures: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises ValueError if a picture would replace an image or another picture."""
    images = {os.path.realpath(file) for file in files}
    seen = set()
    for path in pictures:
        real = os.path.realpath(path)
        if real in images:
            raise UsageError(f"{path} is one of the input images: write to another folder or name")
        if real in seen:
            raise UsageError(f"two images would be written to {path}: process them in two calls")
        seen.add(real)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture; its folder is created. The file appears only when it is complete.

    Raises:
        ValueError: the suffix is not one of `PICTURE_SUFFIXES`.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"cannot write {path}: use one of {', '.join(PICTURE_SUFFIXES)}")
    is_large = picture.width * picture.height > LARGE_PICTURE
    write_image(picture, path, quality=95, compress_level=1 if is_large else 6)
