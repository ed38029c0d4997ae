"""What tools/demo.py does with a trained model: draws and writes detections, prints classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from flowdet.detection.set_detector import ImageAnalysis
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.json_writer import JsonArrayWriter
from flowdet.inference.picture_writer import NOTHING, Extras, open_pictures
from flowdet.inference.predictor import Predictor
from flowdet.inference.video import Frames
from flowdet.inference.video_writer import VideoWriter, Window
from flowdet.visualization.box_trajectory import box_trajectory
from flowdet.visualization.drawing import DetectionVisualizer

# with more images than this the progress is shown
QUIET = 4
# of a film of the boxes' travel: two seconds, and a whole number of them to a step of many walks
TRAJECTORY_FRAMES = 33


def classify_images(
    predictor: ClassPredictor, files: Sequence[Path], top: int, json_path: Path | None = None
) -> None:
    """Prints the `top` most probable classes of the images, and writes them."""
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
    extras: Extras = NOTHING,
    analyses: Sequence[ImageAnalysis] = (),
) -> None:
    """Draws the detections in images to `output` (see `open_pictures`), and writes them.

    Args:
        analyses: what is asked beside, to be drawn.
    """
    pictures = open_pictures(output, files, visualizer, extras) if output else None
    if extras.film:
        analyses = [*analyses, box_trajectory(TRAJECTORY_FRAMES)]
    drawn = 0
    results = predictor.stream(files, bool(extras.times), analyses)
    with JsonArrayWriter(json_path) as rows:
        for result in tqdm(results, total=len(files), unit="image", disable=len(files) <= QUIET):
            rows.add(predictor.coco_results(result))
            drawn += len(visualizer.confident(result["instances"]))
            if pictures:
                pictures.add(result)
    if pictures:
        pictures.close()
        print(f"{pictures.path}: {_found(len(files), 'image', drawn, visualizer)}")
    if json_path:
        print(f"{json_path}: {rows.count} detections in {len(files)} images")


def detect_frames(
    predictor: Predictor,
    frames: Frames,
    visualizer: DetectionVisualizer,
    recording: VideoWriter | None = None,
    window: Window | None = None,
    json_path: Path | None = None,
    analyses: Sequence[ImageAnalysis] = (),
) -> bool:
    """Draws the detections in the frames of a video into a recording or a window, and writes them.

    However long the video, only a batch of frames is in memory. Ctrl-C ends it early and well: what
    there is is kept.

    Returns:
        Whether Ctrl-C has ended it.
    """
    count, drawn, interrupted = 0, 0, False
    results = predictor.stream(frames, analyses=analyses)
    with recording or nullcontext(), JsonArrayWriter(json_path) as rows:
        try:
            for result in tqdm(results, total=frames.count, unit="frame"):
                wanted = _present(result, visualizer, recording, window)
                rows.add(predictor.coco_results(result))
                count += 1
                drawn += len(visualizer.confident(result["instances"]))
                if not wanted:
                    break
        except KeyboardInterrupt:
            interrupted = True
    stopped = "stopped by Ctrl-C, " if interrupted else ""
    if recording and count:
        print(f"{recording.path}: {stopped}{_found(count, 'frame', drawn, visualizer)}")
    if json_path:
        print(f"{json_path}: {stopped}{rows.count} detections in {count} frames")
    return interrupted


def _present(
    result: dict,
    visualizer: DetectionVisualizer,
    recording: VideoWriter | None,
    window: Window | None,
) -> bool:
    """Returns whether more is wanted."""
    if not recording and not window:
        return True
    picture = visualizer.picture(result)
    if recording:
        recording.add(picture, result["image_id"])
    return window.show(picture) if window else True


def _found(count: int, unit: str, drawn: int, visualizer: DetectionVisualizer) -> str:
    return f"{count} {unit}s with {drawn} detections of at least {visualizer.score_threshold:.0%}"
