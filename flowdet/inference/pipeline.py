"""Runs a predictor on many images or on a video and writes pictures, videos and JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from flowdet.detection.set_detector import ImageAnalysis
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
from flowdet.visualization.box_trajectory import box_trajectory
from flowdet.visualization.drawing import DetectionVisualizer

# a progress bar is shown if there are more images than this
MAX_IMAGES_WITHOUT_PROGRESS = 4
# The number of frames of a box trajectory, about two seconds. With 33 frames, every state of a
# solver with 1, 2, 4, 8, 16 or 32 steps has its own frame.
TRAJECTORY_FRAMES = 33


def classify_images(
    predictor: ClassPredictor, files: Sequence[Path], top: int, json_path: Path | None = None
) -> None:
    """Prints the `top` most probable classes of every image and writes them to a JSON file."""
    with JsonArrayWriter(json_path) as rows:
        for result in predictor.stream(files):
            print(predictor.text(result, top))
            rows.add([predictor.json_row(result, top)])
    if json_path:
        print(f"{json_path}: classes of {len(files)} images")


def detect_images(
    predictor: Predictor,
    files: Sequence[Path],
    visualizer: DetectionVisualizer,
    output: str | None = None,
    json_path: Path | None = None,
    trajectory: TrajectoryOutputs = NO_TRAJECTORY,
    analyses: Sequence[ImageAnalysis] = (),
) -> None:
    """Detects objects in images, draws them and writes them to a JSON file.

    Args:
        predictor: runs the detector.
        files: paths of the images.
        visualizer: draws the detections.
        output: folder or file of the pictures, see `open_picture_writer`; None draws nothing.
        json_path: JSON file for the detections; None writes no file.
        trajectory: the pictures of the trajectory to write as well.
        analyses: callbacks that add values to the results, which are then drawn or written.
    """
    pictures = open_picture_writer(output, files, visualizer, trajectory) if output else None
    if trajectory.animation_suffix:
        analyses = [*analyses, box_trajectory(TRAJECTORY_FRAMES)]
    drawn = 0
    quiet = len(files) <= MAX_IMAGES_WITHOUT_PROGRESS
    results = predictor.stream(files, bool(trajectory.step_times), analyses)
    with JsonArrayWriter(json_path) as rows:
        for result in tqdm(results, total=len(files), unit="image", disable=quiet):
            rows.add(predictor.coco_results(result))
            drawn += len(visualizer.above_threshold(result["instances"]))
            if pictures:
                pictures.add(result)
    if pictures:
        pictures.close()
        print(f"{pictures.path}: {_summary(len(files), 'image', drawn, visualizer)}")
    if json_path:
        print(f"{json_path}: {rows.count} detections in {len(files)} images")


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
    count, drawn, interrupted = 0, 0, False
    results = predictor.stream(frames, analyses=analyses)
    with writer or nullcontext(), JsonArrayWriter(json_path) as rows:
        try:
            for result in tqdm(results, total=frames.count, unit="frame"):
                go_on = _output_frame(result, visualizer, writer, window)
                rows.add(predictor.coco_results(result))
                count += 1
                drawn += len(visualizer.above_threshold(result["instances"]))
                if not go_on:
                    break
        except KeyboardInterrupt:
            interrupted = True
    stopped = "stopped by Ctrl-C, " if interrupted else ""
    if writer and count:
        print(f"{writer.path}: {stopped}{_summary(count, 'frame', drawn, visualizer)}")
    if json_path:
        print(f"{json_path}: {stopped}{rows.count} detections in {count} frames")
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
    return f"{count} {unit}s with {drawn} detections of at least {visualizer.score_threshold:.0%}"
