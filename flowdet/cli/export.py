"""Exports a trained detector or classifier as one ONNX or torch.export file, or its weights.

    tools/export.py --config-file output/digits_flow/config.yaml \\
        --weights output/digits_flow/model_final.pth --output detector.onnx

An ONNX file runs without flowdet and detectron2. The inference mode and the image size are fixed in
the file; the batch size is free. The outputs of the file are compared with those of the model on
random images, or on the images of --check. The file is kept only if they match. docs/export.md
describes how to use it. A .safetensors file has the weights alone, for `MODEL.WEIGHTS`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowdet.cli.common import (
    MODE_HELP,
    at_least_one,
    command,
    command_parser,
    positive,
    user_errors,
)
from flowdet.config.errors import UsageError
from flowdet.export.suffixes import SUFFIXES as GRAPH_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

    from flowdet.export import Difference, Graph
    from flowdet.inference.predictor import BasePredictor

WEIGHTS = "safetensors"
# the suffixes of the files by format
SUFFIXES = GRAPH_SUFFIXES | {WEIGHTS: ".safetensors"}
# the number of random images for the comparison, without --check
RANDOM_IMAGES = 4


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, help="config.yaml of a run, or path or name of a config")
    add("--weights", help="checkpoint (default: MODEL.WEIGHTS of the config)")
    output = "file to write: .onnx, .pt2 for torch.export, or .safetensors for the weights alone"
    add("--output", type=Path, required=True, help=output)
    add(
        "--format",
        choices=SUFFIXES,
        help="ONNX, torch.export or safetensors (default: by the suffix of --output)",
    )
    size = "height and width of the images in pixels (default: INPUT.FIXED_SIZE)"
    add("--size", type=at_least_one, nargs=2, metavar=("H", "W"), help=size)
    add("--mode", help=MODE_HELP)
    add("--steps", type=at_least_one, help="Euler steps of the multi-step modes")
    add("--block", type=int, help="the block of the mode single_step, from 0")
    average = (
        "export the averaged weights or the last ones (default: averaged, if the run has them)"
    )
    add("--ema", action=argparse.BooleanOptionalAction, help=average)
    add("--noise-input", action="store_true", help="make the initial noise an input of the graph")
    add("--no-nms", action="store_true", help="export a detector without non-maximum suppression")
    add("--check", nargs="+", metavar="IMAGE", help="images for the comparison (default: random)")
    add(
        "--tolerance",
        type=positive,
        default=1e-4,
        help="largest accepted difference (default: 1e-4)",
    )
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    by_suffix = {suffix: kind for kind, suffix in SUFFIXES.items()}
    args.format = args.format or by_suffix.get(args.output.suffix)
    if not args.format or args.output.suffix != SUFFIXES[args.format]:
        endings = " or ".join(f"{suffix} ({kind})" for kind, suffix in SUFFIXES.items())
        parser.error(f"--output {args.output} must end in {endings}")
    return args


def load(args: argparse.Namespace) -> BasePredictor:
    """Loads the model on the CPU, with its image preprocessing.

    Raises:
        ValueError: a flag does not apply to the model, or the image size is not set.
    """
    from flowdet.engine.task_builders import CLASSIFICATION, task_of
    from flowdet.engine.whole_model import checkpoint_beside
    from flowdet.inference.classifier_predictor import ClassPredictor
    from flowdet.inference.predictor import Predictor
    from flowdet.inference.settings import inference_config

    overrides = [*args.opts, *(["INPUT.FIXED_SIZE", args.size] if args.size else [])]
    overrides += ["SOLVER.EMA_DECAY", 0.0] if args.ema is False else []
    plan = {"mode": args.mode, "steps": args.steps, "block": args.block}
    cfg = inference_config(args.config_file, overrides, device="cpu", **plan)
    if args.format != WEIGHTS and not all(cfg.INPUT.FIXED_SIZE):
        raise UsageError("INPUT.FIXED_SIZE is 0, but a graph needs one image size: give --size H W")
    is_classifier = task_of(cfg) is CLASSIFICATION
    if is_classifier and args.no_nms:
        raise UsageError("--no-nms is for detectors: leave it out")
    with checkpoint_beside(args.config_file, "--weights"):
        predictor = (ClassPredictor if is_classifier else Predictor)(cfg, args.weights)
    if args.ema and not predictor.averaged:
        raise UsageError(
            "--ema: the run has no averaged weights, because its SOLVER.EMA_DECAY is 0"
        )
    return predictor


def build(args: argparse.Namespace, predictor: BasePredictor) -> Graph:
    """Builds the graph of the model.

    Raises:
        ValueError: `--noise-input` was given for a model without initial noise.
    """
    from flowdet.export import graph_of

    size = tuple(predictor.cfg.INPUT.FIXED_SIZE)
    graph = graph_of(predictor.model, size, suppress=not args.no_nms)
    if graph.noise is None and args.noise_input:
        raise UsageError(
            f"a {type(predictor.model).__name__} has no initial noise: leave out --noise-input"
        )
    return graph


def images_to_check(args: argparse.Namespace, predictor: BasePredictor, graph: Graph) -> Tensor:
    """Returns the images for the comparison, uint8 [B, 3, H, W], preprocessed as in evaluation."""
    import torch

    from flowdet.data.image_files import find_images
    from flowdet.inference.classifier_predictor import ClassPredictor

    if not args.check:
        shape = (RANDOM_IMAGES, 3, *graph.size)
        random = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    records = [{"file_name": str(x), "image_id": x.stem} for x in find_images(args.check)]
    if isinstance(predictor, ClassPredictor):
        return predictor.preprocess(records)
    return torch.stack([predictor.mapper(record)["image"] for record in records])


def report(args: argparse.Namespace, metadata: dict[str, str], difference: Difference) -> None:
    """Prints the size of the file, its settings and its difference from the model."""
    mode = f", {metadata['mode']}" if "mode" in metadata else ""
    size = f"images of {metadata['height']} x {metadata['width']}"
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {size}{mode}")
    compared = f"{difference.images} {'images' if args.check else 'random images'}"
    if difference.detections is not None:
        compared += f" with {difference.detections} detections"
    print(f"largest difference from the model: {difference.largest:.1e} in {compared}")
    if difference.detections == 0:
        print("nothing was detected: compare on images with objects, --check IMAGE ...")


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with user_errors():
        export_model(args)


def export_weights(args: argparse.Namespace) -> None:
    """Writes the weights that inference uses, without optimizer and averages, as .safetensors."""
    from flowdet.engine.weight_files import write_safetensors

    predictor = load(args)
    model = predictor.cfg.MODEL
    source = args.weights or model.WEIGHTS
    if args.output.exists() and os.path.isfile(source) and args.output.samefile(source):
        raise UsageError(f"--output {args.output} is the file of the weights: name another file")
    notes = {"class_names": list(model.CLASS_NAMES), "category_ids": list(model.CATEGORY_IDS)}
    write_safetensors(args.output, predictor.model.state_dict(), notes)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, the weights of the model")


def export_model(args: argparse.Namespace) -> None:
    """Exports the model, compares the file with it, and prints the result."""
    from flowdet.export import FORMATS, export, metadata_of

    if args.format == WEIGHTS:
        export_weights(args)
        return
    FORMATS[args.format].check_packages()
    predictor = load(args)
    graph = build(args, predictor)
    metadata = metadata_of(predictor, graph, args.noise_input)
    difference = export(
        graph,
        args.output,
        args.format,
        metadata=metadata,
        noise_input=args.noise_input,
        images=images_to_check(args, predictor, graph),
        tolerance=args.tolerance,
    )
    report(args, metadata, difference)


if __name__ == "__main__":
    sys.exit(main())
