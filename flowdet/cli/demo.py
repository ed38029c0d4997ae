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
import os
import sys
from pathlib import Path

from flowdet.cli.common import MODE_HELP, at_least_one, command, command_parser, user_errors
from flowdet.inference.output_formats import ANIMATION_SUFFIXES, NUM_SEEDS

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
    add("--mode", help=MODE_HELP)
    add("--steps", type=at_least_one, help="Euler steps of the multi-step modes")
    add("--block", type=int, help="the block of the mode single_step, from 0")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the config's)")
    add("--batch-size", type=at_least_one, help="images per batch (default: TEST.BATCH_SIZE)")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    _check_early(parser, args)
    _read_task(parser, args)
    check_flags(parser, args)
    if args.score_threshold is None:
        args.score_threshold = SCORE_THRESHOLD
    args.top = args.top or TOP
    return args


def _check_early(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if flags exclude each other, whatever the model is."""
    kind, unusable = ("images", VIDEO_FLAGS) if args.input else ("videos", IMAGE_FLAGS)
    given = [x for x in unusable if getattr(args, x)]
    if given:
        parser.error(f"--{given[0].replace('_', '-')} is not for {kind}")
    if args.json and os.path.isdir(args.json):
        parser.error(f"--json {args.json} is a folder: give a file")


def _read_task(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Sets `args.is_classifier`, and checks the device and the mode: these need torch."""
    import torch

    from flowdet.engine import load_config
    from flowdet.engine.task_builders import CLASSIFICATION, task_of
    from flowdet.flow import INFERENCE_MODES

    with user_errors():
        args.is_classifier = task_of(load_config(args.config_file, args.opts)) is CLASSIFICATION
    if args.mode and args.mode not in INFERENCE_MODES:
        parser.error(f"--mode {args.mode}: use one of {', '.join(INFERENCE_MODES)}")
    try:
        torch.device(args.device or "cpu")
    except RuntimeError:
        parser.error(f"--device {args.device} is not a torch device: use cpu, cuda, cuda:1, ...")


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if a flag does not apply to the task, or two flags exclude each other."""
    own, other, unusable = "detector", "classifier", CLASSIFIER_FLAGS
    if args.is_classifier:
        own, other, unusable = "classifier", "detector", DETECTOR_FLAGS
    given = [x for x in unusable if getattr(args, x) is not parser.get_default(x)]
    if given:
        flags = ", ".join("--" + x.replace("_", "-") for x in given)
        parser.error(f"{flags}: only for {other}s, but this is the config of a {own}")
    if args.is_classifier:
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
    if args.explore.suffix.lower() not in (".html", ".htm") or os.path.isdir(args.explore):
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


@command
def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    from flowdet.cli.run_demo import detect

    with user_errors():
        return detect(args)


if __name__ == "__main__":
    sys.exit(main())
