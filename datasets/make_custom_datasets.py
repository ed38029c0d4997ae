#!/usr/bin/env python
"""Writes two small custom datasets, one in VOC and one in COCO format, of handwritten digits.

    python datasets/make_custom_datasets.py
    tools/train_net.py --config-file configs/digits_flow.yaml --data datasets/custom/voc \\
        SOLVER.MAX_EPOCHS 40

They are examples for the layout of a custom dataset: datasets/custom/voc and datasets/custom/coco
contain the same scenes, with the classes zero to nine. docs/custom_datasets.md describes all
accepted layouts.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from flowdet.cli.common import at_least_one, user_errors
from flowdet.data.detection.digits import DigitBank, compose_scene
from flowdet.data.detection.voc import write_voc_annotation
from flowdet.reporting.results import write_text

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# split of the dataset -> split of the digits; no digit is in both splits
SPLITS = {"train": "train", "val": "test"}
# name of the image; uint8 RGB [H, W, 3]; boxes [N, 4], absolute xyxy in pixels; classes [N]
Scene = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def scenes(split: str, count: int, image_size: int, seed: int) -> Iterator[Scene]:
    """Yields `count` scenes of a split, "train" or "val"."""
    digits = DigitBank.load(SPLITS[split])
    for number in range(count):
        rng = np.random.default_rng([seed, list(SPLITS).index(split), number])
        yield f"{split}{number:05d}", *compose_scene(rng, digits, image_size)


def write_voc(folder: Path, split: str, content: Iterator[Scene]) -> None:
    """Writes a split in VOC format: JPEGImages/, Annotations/, ImageSets/Main/ and classes.txt.

    Without classes.txt the classes would be the sorted names in the training annotations.
    """
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    for subfolder in (images, annotations):
        subfolder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, pixels, boxes, classes in content:
        Image.fromarray(pixels).save(images / f"{name}.jpg", quality=95)
        labels = [CLASS_NAMES[c] for c in classes]
        write_voc_annotation(
            annotations / f"{name}.xml", f"{name}.jpg", pixels.shape[:2], boxes, labels
        )
        names.append(name)
    write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names) + "\n")
    write_text(folder / "classes.txt", "\n".join(CLASS_NAMES) + "\n")


def write_coco(folder: Path, split: str, content: Iterator[Scene]) -> None:
    """Writes a split in COCO format: <split>/ and annotations/instances_<split>.json."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for name, pixels, boxes, classes in content:
        Image.fromarray(pixels).save(folder / split / f"{name}.png")
        height, width = pixels.shape[:2]
        image = {"id": len(images) + 1, "file_name": f"{name}.png"}
        images.append({**image, "height": height, "width": width})
        for (x1, y1, x2, y2), index in zip(boxes.tolist(), classes.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": index + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, 1)]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(data))


WRITERS = {"voc": write_voc, "coco": write_coco}


def make(output: Path, formats: list[str], counts: dict[str, int], size: int, seed: int) -> None:
    """Writes the datasets `output`/voc and `output`/coco.

    Args:
        output: the folder to write to.
        formats: "voc", "coco" or both.
        counts: number of images by split, "train" and "val".
        size: height and width of the images, in pixels.
        seed: random seed of the scenes.

    Raises:
        FileExistsError: one of the datasets exists.
        ValueError: the images are too small for the digits.
    """
    for name in formats:
        if (output / name).exists():
            raise FileExistsError(f"{output / name} exists: remove it, or give another --output")
        for split, count in counts.items():
            WRITERS[name](output / name, split, scenes(split, count, size, seed))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=Path("datasets/custom"),
        help="folder to write to (default: %(default)s)",
    )
    add(
        "--format",
        choices=WRITERS,
        nargs="+",
        default=list(WRITERS),
        help="formats to write (default: %(default)s)",
    )
    add(
        "--train",
        type=at_least_one,
        default=200,
        help="number of training images (default: %(default)s)",
    )
    add(
        "--val",
        type=at_least_one,
        default=50,
        help="number of validation images (default: %(default)s)",
    )
    add(
        "--image-size",
        type=at_least_one,
        default=96,
        help="height and width in pixels (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="random seed of the scenes (default: %(default)s)")
    args = parser.parse_args()
    counts = {"train": args.train, "val": args.val}
    with user_errors():
        make(args.output, args.format, counts, args.image_size, args.seed)
    for name in args.format:
        print(f"{args.output / name}: {args.train} training images, {args.val} validation images")


if __name__ == "__main__":
    main()
