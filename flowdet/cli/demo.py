"""Draws a detector's detections in images and videos, or prints a classifier's classes.

    tools/demo.py --config-file output/digits_flow/config.yaml \\
        --weights output/digits_flow/model_final.pth --input photos/*.jpg --output detections/

If --output is a folder, it gets one picture per image; if it is a picture (sheet.png), all images
are drawn on that sheet. --trajectory also draws the boxes after every integration step. --animate
gif also animates the boxes from noise to objects. --disagreement also draws how much the boxes of
the flow blocks differ.

--json writes the detections in COCO's result format. With --annotations instances_val.json they
have the image ids and category ids of that file. Images that cannot be read are skipped and named,
and the exit status is then 1.

    ... --input photos/*.jpg --explore page.html

writes one HTML page for at most 100 images, in which sliders move the boxes from noise to objects.

    ... --video street.mp4 --output detections.mp4
    ... --webcam --show

Only --show needs a display. Ctrl-C stops a video or camera and keeps what is written so far.

    tools/demo.py --config-file output/digits_flow_vit/config.yaml \\
        --weights output/digits_flow_vit/model_final.pth --input photos/ --top 3

prints the 3 most probable classes of every image, because this is the config of a classifier.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode

from flowdet.cli.common import at_least_one, command_parser, user_errors
from flowdet.data.image_files import find_images
from flowdet.detection.set_detector import ImageAnalysis
from flowdet.engine import keep_freed_memory, load_config
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.evaluation.block_agreement import block_agreement, check_has_blocks
from flowdet.flow import INFERENCE_MODES
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
    ANIMATION_SUFFIXES,
    VideoWriter,
    Window,
    video_output_path,
)
from flowdet.visualization.drawing import DetectionVisualizer

# attributes of the parsed arguments: flags for one task only, and flags for images or videos only
DETECTOR_FLAGS = (
    *("video", "webcam", "show", "output", "trajectory", "animate", "disagreement"),
    *("score_threshold", "annotations", "explore", "noise_seeds"),
)
CLASSIFIER_FLAGS = ("classify", "top")
IMAGE_FLAGS = ("trajectory", "animate", "annotations", "explore", "noise_seeds")
VIDEO_FLAGS = ("show",)
# flags of other outputs than the explorer
OUTPUT_FLAGS = ("output", "json", "trajectory", "animate", "disagreement")
# flags that need one of other flags
NEEDED_FLAGS = (
    *(("trajectory", ["output"]), ("animate", ["output"])),
    *(("annotations", ["json", "explore"]), ("noise_seeds", ["explore"])),
)
# the defaults of --score-threshold and --top
SCORE_THRESHOLD, TOP = 0.5, 5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, help="config.yaml of a run, or path or name of a config")
    add("--weights", help="checkpoint (default: MODEL.WEIGHTS of the config)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, folders, quoted glob patterns")
    source.add_argument("--video", metavar="FILE", help="a video file")
    source.add_argument(
        "--webcam", nargs="?", type=camera, const=0, help="number of a camera (default: 0)"
    )
    add("--output", help="folder, picture (.png, .jpg) for one sheet, or video")
    add("--show", action="store_true", help="show the video in a window; q closes it")
    add("--json", type=Path, help="file for the detections (COCO format) or the classes")
    add(
        "--annotations",
        metavar="FILE",
        help="COCO file: ids for --json, ground truth for --explore",
    )
    add("--explore", type=Path, metavar="FILE", help="HTML page in which sliders move the boxes")
    add("--noise-seeds", type=at_least_one, help=f"seeds in the page (default: {NUM_SEEDS})")
    add("--trajectory", action="store_true", help="also draw the boxes after every step")
    formats = [suffix[1:] for suffix in ANIMATION_SUFFIXES]
    add("--animate", choices=formats, help="also animate the boxes from noise to objects")
    add("--disagreement", action="store_true", help="draw and write how much the blocks differ")
    add(
        "--score-threshold",
        type=probability,
        help=f"lowest score that is drawn (default: {SCORE_THRESHOLD})",
    )
    add("--classify", action="store_true", help="exit with an error for the config of a detector")
    add("--top", type=at_least_one, help=f"classes per image of a classifier (default: {TOP})")
    add("--mode", choices=INFERENCE_MODES, help="inference mode (default: the config's)")
    add("--steps", type=at_least_one, help="Euler steps of the multi-step modes")
    add("--block", type=int, help="the block of the mode single_step, from 0")
    add("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the config's)")
    add("--batch-size", type=at_least_one, help="images per batch (default: TEST.BATCH_SIZE)")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    args.task = task_of(load_config(args.config_file, args.opts))
    check_flags(parser, args)
    if args.score_threshold is None:
        args.score_threshold = SCORE_THRESHOLD
    return args


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if a flag does not apply to the task, or two flags exclude each other."""
    own, other, unusable = "detector", "classifier", CLASSIFIER_FLAGS
    if args.task is CLASSIFICATION:
        own, other, unusable = "classifier", "detector", DETECTOR_FLAGS
    given = [x for x in unusable if getattr(args, x) is not parser.get_default(x)]
    if given:
        flags = ", ".join("--" + x.replace("_", "-") for x in given)
        parser.error(f"{flags}: only for {other}s, but this is the config of a {own}")
    kind, unusable = ("images", VIDEO_FLAGS) if args.input else ("videos", IMAGE_FLAGS)
    given = [x for x in unusable if getattr(args, x)]
    if given:
        parser.error(f"--{given[0].replace('_', '-')} is not for {kind}")
    if args.json and args.json.is_dir():
        parser.error(f"--json {args.json} is a folder: give a file")
    if args.task is CLASSIFICATION:
        return
    if args.explore:
        check_explore_flags(parser, args)
    elif not args.output and not args.json and not args.show:
        other = ", or --explore" if args.input else ", or --show"
        parser.error(f"give --output, --json or both{other}")
    for name, needed in NEEDED_FLAGS:
        if getattr(args, name) and not any(getattr(args, x) for x in needed):
            flags = " or ".join(f"--{x}" for x in needed)
            parser.error(f"--{name.replace('_', '-')} needs {flags}")


def check_explore_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if a flag does not go with `--explore`."""
    given = [x for x in OUTPUT_FLAGS if getattr(args, x)]
    if given:
        parser.error(f"--explore writes a page alone: leave out --{given[0]}, or use two calls")
    if args.explore.suffix.lower() not in (".html", ".htm") or args.explore.is_dir():
        parser.error(f"--explore {args.explore}: give the name of an .html file")


def probability(text: str) -> float:
    """Converts the text of an option to a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def camera(text: str) -> int:
    """Converts the text of `--webcam` to the number of a camera."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a camera number: use 0, 1, ...")
    return int(text)


def device(text: str) -> str:
    """Checks the text of `--device`."""
    try:
        return str(torch.device(text))
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a torch device: use cpu, cuda, cuda:1, ..."
        ) from error


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
    if args.task is not CLASSIFICATION:
        node = cfg.MODEL.FLOW_DET
        # the model must return all detections that are drawn
        node.SCORE_THRESHOLD = min(node.SCORE_THRESHOLD, args.score_threshold)
    return cfg


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    with user_errors():
        return detect(parse_args(argv))


def detect(args: argparse.Namespace) -> int:
    """Runs the model on the images or frames; returns the exit status."""
    # opened first, so that missing files are reported before the model is loaded
    annotations = AnnotationFile(args.annotations) if args.annotations else None
    files = find_images(args.input, notice) if args.input else []
    image_ids = annotations.image_ids(files, notice) if annotations else {}
    if args.explore:
        check_explorer(len(image_ids or files))
    frames = None if args.input else open_frames(args)
    kind = ClassPredictor if args.task is CLASSIFICATION else Predictor
    predictor = kind(configure(args), args.weights)
    if predictor.cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.task is CLASSIFICATION:
        return classify_images(predictor, files, args.top or TOP, args.json).exit_status
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
    """Prints a message about the inputs on standard error."""
    print(message, file=sys.stderr)


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

    The status is 130 if Ctrl-C stopped a video file. For a camera it is 0, because Ctrl-C is the
    usual way to stop it.
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
    return 130 if interrupted and args.video else 0


if __name__ == "__main__":
    sys.exit(main())
