"""Runs a predictor on many images or on a video and writes pictures, videos and JSON files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from flowdet.data.custom.findings import one_line
from flowdet.data.image_files import conversion_hint
from flowdet.detection.set_detector import ImageAnalysis
from flowdet.engine.category_ids import CategoryId
from flowdet.inference.annotation_file import ImageId
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.json_writer import JsonArrayWriter
from flowdet.inference.picture_writer import (
    NO_TRAJECTORY,
    TrajectoryOutputs,
    open_picture_writer,
)
from flowdet.inference.predictor import Predictor
from flowdet.inference.video import Frames
from flowdet.inference.video_writer import VideoWriter, Window
from flowdet.stop_signals import stop_name, stop_status
from flowdet.terminal import image_bar
from flowdet.visualization.box_trajectory import box_trajectory
from flowdet.visualization.drawing import DetectionVisualizer

# a progress bar is shown if there are more images than this
MAX_IMAGES_WITHOUT_PROGRESS = 4
# The number of frames of a box trajectory, about two seconds. With 33 frames, every state of a
# solver with 1, 2, 4, 8, 16 or 32 steps has its own frame.
TRAJECTORY_FRAMES = 33


class JsonIds(NamedTuple):
    """The ids in a JSON file of detections.

    Attributes:
        images: the image id of every image.
        categories: the category id by class index.
    """

    images: Mapping[Path, ImageId]
    categories: Sequence[CategoryId]


class Outcome(NamedTuple):
    """How a run over many images ended.

    Attributes:
        skipped: the number of images that could not be read.
        interrupted: whether Ctrl-C, or another signal of `stop_signals`, stopped the run.
    """

    skipped: int = 0
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """The exit status of a command: that of `stop_status` if it was stopped, 1 if images were
        skipped, else 0."""
        return stop_status() if self.interrupted else min(self.skipped, 1)


class SkippedImages:
    """Names every image that cannot be read on standard error at once, and counts them.

    Args:
        total: the number of images of the run.

    Attributes:
        count: the number of skipped images so far.
    """

    def __init__(self, total: int):
        self.total = total
        self.count = 0

    def __call__(self, record: dict, error: Exception) -> None:
        """Names an image; the callback `on_error` of a predictor."""
        self.count += 1
        name, reason = record["file_name"], str(error)
        if name not in reason:
            reason = f"{name}: {reason}"
        label = "error" if self.total == 1 else "skipped"
        message = " ".join(f"{label}: {reason}{conversion_hint(name)}".split())
        # a progress bar stays below the message
        tqdm.write(one_line(message), file=sys.stderr)

    @property
    def is_only_image(self) -> bool:
        """Whether the run has a single image, and it was skipped: its message says everything."""
        return self.count == self.total == 1

    def report(self) -> None:
        """Prints the number of skipped images at the end of a run."""
        if self.count and not self.is_only_image:
            print(
                f"error: {self.count} of {self.total} images were skipped, see above",
                file=sys.stderr,
            )


def classify_images(
    predictor: ClassPredictor, files: Sequence[Path], top: int, json_path: Path | None = None
) -> Outcome:
    """Prints the `top` most probable classes of every image and writes them to a JSON file.

    Images that cannot be read are skipped. Ctrl-C, and an error, keep the finished images.
    """
    skipped, done, interrupted = SkippedImages(len(files)), 0, False
    with JsonArrayWriter(json_path) as rows:
        try:
            for result in predictor.stream(files, on_error=skipped):
                _print(predictor.text(result, top))
                rows.add([predictor.json_row(result, top)])
                done += 1
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            _report_finished(done, json_path)
            raise
    if json_path and not skipped.is_only_image:
        _print(f"{json_path}: {stopped(interrupted)}classes of {_counted(done, 'image')}")
    skipped.report()
    return Outcome(skipped.count, interrupted)


def detect_images(
    predictor: Predictor,
    files: Sequence[Path],
    visualizer: DetectionVisualizer,
    output: str | None = None,
    json_path: Path | None = None,
    trajectory: TrajectoryOutputs = NO_TRAJECTORY,
    analyses: Sequence[ImageAnalysis] = (),
    ids: JsonIds | None = None,
) -> Outcome:
    """Detects objects in images, draws them and writes them to a JSON file.

    Images that cannot be read are skipped. Ctrl-C, and an error, keep the finished images.

    Args:
        predictor: runs the detector.
        files: paths of the images.
        visualizer: draws the detections.
        output: folder or file of the pictures, see `open_picture_writer`; None draws nothing.
        json_path: JSON file for the detections; None writes no file.
        trajectory: the pictures of the trajectory to write as well.
        analyses: callbacks that add values to the results, which are then drawn or written.
        ids: the ids in the JSON file; None takes the stems of the file names and
            `Predictor.category_ids`.
    """
    if json_path and ids is None:
        ids = JsonIds(_stems(files), predictor.category_ids)
    pictures = open_picture_writer(output, files, visualizer, trajectory) if output else None
    if trajectory.animation_suffix:
        analyses = [*analyses, box_trajectory(TRAJECTORY_FRAMES)]
    skipped, done, drawn, interrupted = SkippedImages(len(files)), 0, 0, False
    results = predictor.stream(
        [_record(file, ids) for file in files],
        bool(trajectory.step_times),
        analyses,
        on_error=skipped,
    )
    many = len(files) > MAX_IMAGES_WITHOUT_PROGRESS
    with JsonArrayWriter(json_path) as rows:
        try:
            for result in image_bar(results, len(files), shown=many):
                if json_path:
                    rows.add(predictor.coco_results(result, ids.categories))
                drawn += len(visualizer.above_threshold(result["instances"]))
                if pictures:
                    pictures.add(result)
                done += 1
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            _report_finished(done, json_path)
            raise
    how = stopped(interrupted)
    if pictures and done:
        pictures.close()
        _print(f"{pictures.path}: {how}{_summary(done, 'image', drawn, visualizer)}")
    if json_path and not skipped.is_only_image:
        _print(f"{json_path}: {how}{rows.count} detections in {_counted(done, 'image')}")
    skipped.report()
    return Outcome(skipped.count, interrupted)


def _stems(files: Sequence[Path]) -> dict[Path, str]:
    """Returns the stem of every file name; prints a note if two images have the same one."""
    stems = {file: file.stem for file in files}
    repeated = [stem for stem, count in Counter(stems.values()).items() if count > 1]
    if repeated:
        print(
            "images of the same name have the same image_id in the JSON file, such as "
            f"{repeated[0]!r} ({len(repeated)} in all): tell them apart by file_name",
            file=sys.stderr,
        )
    return stems


def _record(file: Path, ids: JsonIds | None) -> dict:
    """Returns the dataset dict of an image; the image id is the one in the JSON file."""
    return {"file_name": str(file), "image_id": ids.images[file] if ids else file.stem}


def _report_finished(done: int, json_path: Path | None) -> None:
    """Prints how many images were finished before an error."""
    kept = f"; {json_path} has what was written" if done and json_path else ""
    print(f"stopped by an error after {_counted(done, 'image')}{kept}", file=sys.stderr)


def _print(text: str) -> None:
    """Prints a line; characters that the terminal cannot show are escaped, which print refuses."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def stopped(interrupted: bool) -> str:
    """Returns the start of a message about a run that a signal has stopped; "" for others."""
    return f"stopped by {stop_name()}, " if interrupted else ""


def detect_frames(
    predictor: Predictor,
    frames: Frames,
    visualizer: DetectionVisualizer,
    writer: VideoWriter | None = None,
    window: Window | None = None,
    json_path: Path | None = None,
    analyses: Sequence[ImageAnalysis] = (),
) -> bool:
    """Detects objects in the frames of a video or camera, draws them and writes them.

    Only one batch of frames is in memory, whatever the length of the video. Ctrl-C stops early and
    keeps the finished frames.

    Args:
        predictor: runs the detector.
        frames: the video or camera.
        visualizer: draws the detections.
        writer: writes the drawn frames; it is closed at the end.
        window: shows the drawn frames; detection stops when the user closes it.
        json_path: JSON file for the detections; None writes no file.
        analyses: callbacks that add values to the results, which are then drawn or written.

    Returns:
        Whether Ctrl-C stopped the detection.
    """
    category_ids = predictor.category_ids if json_path else None
    count, drawn, interrupted = 0, 0, False
    results = predictor.stream(frames, analyses=analyses)
    with writer or nullcontext(), JsonArrayWriter(json_path) as rows:
        try:
            for result in image_bar(results, frames.count, unit="frame"):
                go_on = _output_frame(result, visualizer, writer, window)
                if json_path:
                    rows.add(predictor.coco_results(result, category_ids))
                count += 1
                drawn += len(visualizer.above_threshold(result["instances"]))
                if not go_on:
                    break
        except KeyboardInterrupt:
            interrupted = True
    how = stopped(interrupted)
    if writer and count:
        _print(f"{writer.path}: {how}{_summary(count, 'frame', drawn, visualizer)}")
    if json_path:
        _print(f"{json_path}: {how}{rows.count} detections in {_counted(count, 'frame')}")
    return interrupted


def _output_frame(
    result: dict,
    visualizer: DetectionVisualizer,
    writer: VideoWriter | None,
    window: Window | None,
) -> bool:
    """Writes and shows a frame; returns False if the user has closed the window."""
    if not writer and not window:
        return True
    picture = visualizer.picture(result)
    if writer:
        writer.add(picture, result["image_id"])
    return window.show(picture) if window else True


def _summary(count: int, unit: str, drawn: int, visualizer: DetectionVisualizer) -> str:
    threshold = f"{visualizer.score_threshold:.0%}"
    return f"{_counted(count, unit)} with {drawn} detections of at least {threshold}"


def _counted(count: int, unit: str) -> str:
    """Returns e.g. "1 image" or "2 images"."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
