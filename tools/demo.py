#!/usr/bin/env python
"""Draws what a trained detector finds in images, or prints what a classifier takes them for.

    tools/demo.py --config-file output/digits_flow/config.yaml \\
        --weights output/digits_flow/model_final.pth --input photos/*.jpg --output found/

A folder as --output gets one picture per image; the name of a picture (sheet.png) gets all
images on one sheet. --trajectory also draws what every step of the transport has found.

    tools/demo.py --config-file output/digits_flow_vit/config.yaml \\
        --weights output/digits_flow_vit/model_final.pth --input photos/ --top 3

prints the 3 most probable classes of every image: the config says that it is a classifier's.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import flowdet  # noqa: F401 - first: it silences a warning of detectron2's import

# isort: split
import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from flowdet.analysis.results import write_text
from flowdet.data.images import find_images
from flowdet.detection.drawing import Painter
from flowdet.engine import Predictor, keep_freed_memory, load_config
from flowdet.engine.command import at_least_one, user_errors
from flowdet.engine.pictures import open_pictures
from flowdet.engine.task import CLASSIFICATION, task_of
from flowdet.flow import INFERENCE_MODES
from flowdet.flowcls.predictor import ClassPredictor, has_inference_modes

# with more images than this the progress is shown
QUIET = 4
# the flags of one task, as argparse names them
DETECTOR_FLAGS = ("output", "trajectory", "score_threshold")
CLASSIFIER_FLAGS = ("classify", "top")
# where they are not given
SCORE_THRESHOLD, TOP = 0.5, 5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, help="config.yaml of a run, or one of configs/")
    add("--weights", help="checkpoint of a training (default: MODEL.WEIGHTS of the config)")
    add("--input", nargs="+", required=True, help="images, folders, quoted glob patterns")
    add("--output", help="folder, or name of a picture (.png, .jpg) for one sheet of all images")
    add("--json", type=Path, help="file for the results: detections in COCO's form, or classes")
    add("--trajectory", action="store_true", help="also draw the boxes after every step")
    add("--score-threshold", type=probability, help=f"draw from here (default: {SCORE_THRESHOLD})")
    add("--classify", action="store_true", help="refuse the config of a detector")
    add("--top", type=at_least_one, help=f"classes that a classifier prints (default: {TOP})")
    add("--mode", choices=INFERENCE_MODES, help="inference mode (default: the config's)")
    add("--steps", type=at_least_one, help="Euler steps of the multi-step modes")
    add("--block", type=int, help="the block of single_step, from 0")
    add("--device", type=device, help="cpu, cuda, cuda:1, ... (default: the config's)")
    add("--batch-size", type=at_least_one, help="images at a time (default: TEST.BATCH_SIZE)")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    args.task = task_of(load_config(args.config_file, args.opts))
    check_flags(parser, args)
    if args.score_threshold is None:
        args.score_threshold = SCORE_THRESHOLD
    return args


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program if the flags do not fit each other or the task."""
    own, other, foreign = "detector", "classifier", CLASSIFIER_FLAGS
    if args.task is CLASSIFICATION:
        own, other, foreign = "classifier", "detector", DETECTOR_FLAGS
    given = [x for x in foreign if getattr(args, x) is not parser.get_default(x)]
    if given:
        flags = ", ".join("--" + x.replace("_", "-") for x in given)
        parser.error(f"{flags}: only for {other}s, and the config is that of a {own}")
    if args.json and args.json.is_dir():
        parser.error(f"--json {args.json} is a folder: give a file")
    if args.task is CLASSIFICATION:
        return
    if not args.output and not args.json:
        parser.error("give --output, --json or both")
    if args.trajectory and not args.output:
        parser.error("--trajectory draws: give --output")


def probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def device(text: str) -> str:
    try:
        return str(torch.device(text))
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no device of torch") from error


def configure(args: argparse.Namespace) -> CfgNode:
    """The config with what the flags override.

    Raises:
        ValueError: a flag that the model or its inference mode does not read.
    """
    node_name = f"MODEL.{args.task.node}"
    flags = {
        "MODEL.DEVICE": args.device,
        f"{node_name}.INFERENCE_MODE": args.mode,
        f"{node_name}.NUM_STEPS": args.steps,
        f"{node_name}.SINGLE_STEP_BLOCK": args.block,
        "TEST.BATCH_SIZE": args.batch_size,
    }
    given = [x for key, value in flags.items() if value is not None for x in (key, value)]
    cfg = load_config(args.config_file, [*args.opts, *given])
    check_mode_flags(args, cfg)
    if args.task is not CLASSIFICATION:
        node = cfg.MODEL.FLOW_DET
        # what the model drops cannot be drawn
        node.SCORE_THRESHOLD = min(node.SCORE_THRESHOLD, args.score_threshold)
    return cfg


def check_mode_flags(args: argparse.Namespace, cfg: CfgNode) -> None:
    """See `configure`."""
    given = (args.mode, args.steps, args.block) != (None, None, None)
    if given and args.task is CLASSIFICATION and not has_inference_modes(cfg):
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} has no inference modes: leave out --mode, --steps "
            "and --block"
        )
    node = args.task.keys(cfg)
    if args.steps and not INFERENCE_MODES[node.INFERENCE_MODE].many_steps:
        raise ValueError(f"--steps is for the multi-step modes, not for {node.INFERENCE_MODE}")
    if args.block is not None and node.INFERENCE_MODE != "single_step":
        raise ValueError(f"--block is for --mode single_step, not for {node.INFERENCE_MODE}")


def main(args: argparse.Namespace) -> None:
    files = find_images(args.input)
    kind, show = Predictor, detect
    if args.task is CLASSIFICATION:
        kind, show = ClassPredictor, classify
    predictor = kind(configure(args), args.weights)
    if predictor.cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    show(args, predictor, files)


def classify(args: argparse.Namespace, predictor: ClassPredictor, files: Sequence[Path]) -> None:
    """Prints the most probable classes of the images."""
    rows = []
    for result in predictor.stream(files):
        print(predictor.text(result, args.top or TOP))
        rows.append(predictor.json_row(result, args.top or TOP))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=1) + "\n")
        print(f"{args.json}: classes of {len(files)} images")


def detect(args: argparse.Namespace, predictor: Predictor, files: Sequence[Path]) -> None:
    """Draws and writes the detections in the images."""
    painter = Painter(predictor.class_names, args.score_threshold)
    pictures = None
    if args.output:
        steps = predictor.num_steps if args.trajectory else 0
        pictures = open_pictures(args.output, files, painter, steps)
    rows, drawn = [], 0
    results = predictor.stream(files, args.trajectory)
    for result in tqdm(results, total=len(files), unit="image", disable=len(files) <= QUIET):
        rows += predictor.coco_results(result)
        drawn += len(painter.confident(result["instances"]))
        if pictures:
            pictures.add(result)
    if pictures:
        pictures.close()
        print(
            f"{pictures.path}: {len(files)} images with {drawn} detections of at least "
            f"{args.score_threshold:.0%}"
        )
    if args.json:
        write_text(args.json, json.dumps(rows, indent=1) + "\n")
        print(f"{args.json}: {len(rows)} detections in {len(files)} images")


if __name__ == "__main__":
    with user_errors():
        main(parse_args())
