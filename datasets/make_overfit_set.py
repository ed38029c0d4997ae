#!/usr/bin/env python
"""Copies a few images of a VOC dataset to a small dataset whose train and val splits are the same.

If a detector cannot overfit 16 images, its data or settings are wrong. Check this first.

    python datasets/make_overfit_set.py --source $DETECTRON2_DATASETS/VOC2012 --images 16
    DETECTRON2_DATASETS=datasets/overfit python tools/train_net.py \\
        --config-file configs/voc_overfit.yaml

The config downloads the weights of torchvision's ResNet-18. Without a network set MODEL.WEIGHTS to
a file with these weights.
"""

import argparse
import glob
import random
import shutil
from pathlib import Path


def make_overfit_set(source: Path, split: str, count: int, output: Path, seed: int) -> list[str]:
    """Writes the small dataset in VOC layout.

    Args:
        source: a dataset in VOC layout.
        split: the split of `source` to choose images from.
        count: number of images.
        output: the folder to write.
        seed: random seed of the choice.

    Returns:
        The ids of the images.

    Raises:
        FileNotFoundError: `source` has no such split, or an annotation is missing.
        ValueError: the split has fewer images.
    """
    listing = source / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        raise FileNotFoundError(
            f"{listing} does not exist: give a folder in VOC layout as --source"
        )
    names = listing.read_text().split()
    if len(names) < count:
        raise ValueError(f"{listing} lists {len(names)} images, fewer than {count}")
    chosen = sorted(random.Random(seed).sample(names, count))
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for name in chosen:
        for image in (source / "JPEGImages").glob(f"{glob.escape(name)}.*"):
            shutil.copy(image, output / "JPEGImages")
        shutil.copy(source / "Annotations" / f"{name}.xml", output / "Annotations")
    for name in ("train", "val"):
        (output / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(chosen) + "\n")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="a folder in VOC layout")
    parser.add_argument("--split", default="train", help="split of --source (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, default=16, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("datasets/overfit/VOC2012"),
        help="folder to write (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the choice (default: %(default)s)"
    )
    args = parser.parse_args()
    try:
        chosen = make_overfit_set(args.source, args.split, args.images, args.output, args.seed)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{args.output}: {len(chosen)} images, the same for train and val")


if __name__ == "__main__":
    main()
