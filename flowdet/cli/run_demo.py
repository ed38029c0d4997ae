"""`tools/demo.py`: runs the model on the images or frames, after the options are read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode

from flowdet.data.custom.findings import one_line
from flowdet.data.image_files import find_images
from flowdet.detection.set_detector import ImageAnalysis
from flowdet.engine import keep_freed_memory
from flowdet.engine.whole_model import checkpoint_beside
from flowdet.evaluation.block_agreement import block_agreement, check_has_blocks
from flowdet.inference.annotation_file import AnnotationFile
from flowdet.inference.classifier_predictor import ClassPredictor
from flowdet.inference.explorer import NUM_SEEDS, check_explorer, explore_images
from flowdet.inference.explorer_truth import GroundTruth, listed_ground_truth
from flowdet.inference.picture_writer import TrajectoryOutputs
from flowdet.inference.pipeline import (
    JsonIds,
    classify_images,
    detect_frames,
    detect_images,
)
from flowdet.inference.predictor import Predictor
from flowdet.inference.settings import inference_config
from flowdet.inference.video import Camera, Frames, VideoFile
from flowdet.inference.video_writer import (
    VideoWriter,
    Window,
    video_output_path,
)
from flowdet.stop_signals import stop_status
from flowdet.visualization.drawing import DetectionVisualizer


def configure(args: argparse.Namespace) -> CfgNode:
    """Loads the config and sets the values of the flags.

    Raises:
        ValueError: the model or its inference mode does not use a given flag.
    """
    # a batch of one: each frame of a camera is shown as soon as it is read
    batch_size = 1 if args.webcam is not None and not args.batch_size else args.batch_size
    cfg = inference_config(
        args.config_file,
        args.opts,
        device=args.device,
        mode=args.mode,
        steps=args.steps,
        block=args.block,
        batch_size=batch_size,
    )
    if not args.is_classifier:
        node = cfg.MODEL.FLOW_DET
        # the model must return all detections that are drawn
        node.SCORE_THRESHOLD = min(node.SCORE_THRESHOLD, args.score_threshold)
    return cfg


def detect(args: argparse.Namespace) -> int:
    """Runs the model on the images or frames; returns the exit status."""
    # opened first, so that missing files are reported before the model is loaded
    annotations = AnnotationFile(args.annotations) if args.annotations else None
    files = find_images(args.input, notice) if args.input else []
    image_ids = annotations.image_ids(files, notice) if annotations else {}
    if args.explore:
        check_explorer(len(image_ids or files), args.noise_seeds or NUM_SEEDS)
    frames = None if args.input else open_frames(args)
    kind = ClassPredictor if args.is_classifier else Predictor
    with checkpoint_beside(args.config_file, "--weights"):
        predictor = kind(configure(args), args.weights)
    if predictor.cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.is_classifier:
        return classify_images(predictor, files, args.top, args.json).exit_status
    visualizer = DetectionVisualizer(predictor.class_names, args.score_threshold)
    if args.explore:
        ground_truth = annotations and listed_ground_truth(annotations, image_ids)
        return explore(args, list(image_ids) or files, predictor, ground_truth)
    if frames:
        return detect_in_video(args, frames, predictor, visualizer)
    ids = None
    if annotations:
        files = list(image_ids)
        ids = JsonIds(image_ids, annotations.category_ids(predictor.class_names, notice))
    return detect_in_images(args, files, predictor, visualizer, ids)


def explore(
    args: argparse.Namespace,
    files: list[Path],
    predictor: Predictor,
    ground_truth: GroundTruth | None,
) -> int:
    """Writes the page of `--explore`; returns the exit status."""
    seeds = args.noise_seeds or NUM_SEEDS
    return explore_images(
        predictor, files, args.explore, ground_truth, args.score_threshold, seeds
    ).exit_status


def notice(message: str) -> None:
    """Prints a message about the inputs, such as names in a file, on standard error."""
    print(one_line(message), file=sys.stderr)


def detect_in_images(
    args: argparse.Namespace,
    files: list[Path],
    predictor: Predictor,
    visualizer: DetectionVisualizer,
    ids: JsonIds | None,
) -> int:
    """Detects in images; returns the exit status: 1 if images could not be read."""
    trajectory = TrajectoryOutputs(
        predictor.trajectory_times if args.trajectory else (), args.animate and f".{args.animate}"
    )
    analyses = image_analyses(args, predictor)
    return detect_images(
        predictor, files, visualizer, args.output, args.json, trajectory, analyses, ids
    ).exit_status


def image_analyses(args: argparse.Namespace, predictor: Predictor) -> list[ImageAnalysis]:
    """Returns the per-image analyses of the flags; `--disagreement` is the only one."""
    if not args.disagreement:
        return []
    check_has_blocks(predictor.model)
    return [block_agreement]


def open_frames(args: argparse.Namespace) -> Frames:
    """Checks `--output`, then opens the video or the camera."""
    if args.output:
        video_output_path(args.output, args.video or "camera")
    return VideoFile(args.video) if args.video else Camera(args.webcam)


def detect_in_video(
    args: argparse.Namespace, frames: Frames, predictor: Predictor, visualizer: DetectionVisualizer
) -> int:
    """Detects in the frames of a video or camera; returns the exit status.

    If a signal stopped a video file, the status is `stop_status`. For a camera it is 0, because
    Ctrl-C is the usual way to stop it.
    """
    writer = window = None
    if args.output:
        writer = VideoWriter(video_output_path(args.output, frames.name), frames.fps)
    if args.show:
        window = Window(frames.name)
    try:
        analyses = image_analyses(args, predictor)
        interrupted = detect_frames(
            predictor, frames, visualizer, writer, window, args.json, analyses
        )
    finally:
        frames.close()
        if window:
            window.close()
    return stop_status() if interrupted and args.video else 0
