#!/usr/bin/env python
"""Download PASCAL VOC 2007 (trainval, test) and 2012 (trainval) with torchvision and lay them
out the way detectron2 expects: <root>/VOC2007 and <root>/VOC2012.

    python datasets/prepare_voc.py
    python datasets/prepare_voc.py --root ~/data --years 2007

What is there already is neither downloaded nor changed. About 3 GB to download and, while
unpacking, about 6 GB of disk.
"""

import argparse
import os
import shutil
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import VOCDetection

SPLITS = {"2007": ("trainval", "test"), "2012": ("trainval",)}


def is_complete(folder: Path, split: str) -> bool:
    """Whether a VOC folder has the list of a split and all its images and annotations."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        return False
    ids = listing.read_text().split()
    images = {path.stem for path in (folder / "JPEGImages").glob("*.jpg")}
    annotations = {path.stem for path in (folder / "Annotations").glob("*.xml")}
    return bool(ids) and images.issuperset(ids) and annotations.issuperset(ids)


def lay_out(source: Path, target: Path) -> int:
    """Move the files below `source` to the same places below `target`; returns how many.

    Files that are in `target` already stay as they are.
    """
    moved = 0
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
        moved += 1
    return moved


def fetch(root: Path, year: str, split: str) -> None:
    """Download one archive, lay it out in `root`/VOC<year> and check that it is complete."""
    target = root / f"VOC{year}"
    with tempfile.TemporaryDirectory(prefix=".voc-", dir=root) as scratch:
        try:
            VOCDetection(scratch, year=year, image_set=split, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise RuntimeError(
                f"Could not download VOC {year} {split}: {error}. Check the network and the free "
                f"disk space, or unpack the official archive yourself so that {target} has the "
                "folders Annotations, ImageSets and JPEGImages."
            ) from error
        lay_out(Path(scratch) / "VOCdevkit" / f"VOC{year}", target)
    if not is_complete(target, split):
        raise RuntimeError(f"{target} lacks files of split {split}; remove it and try again.")


def parse_args() -> argparse.Namespace:
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=root, help="datasets folder (%(default)s)")
    parser.add_argument("--years", nargs="+", choices=SPLITS, default=list(SPLITS))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    root = args.root.expanduser()
    root.mkdir(parents=True, exist_ok=True)
    for year, split in [(y, s) for y in args.years for s in SPLITS[y]]:
        if is_complete(root / f"VOC{year}", split):
            print(f"VOC {year} {split}: already there")
            continue
        try:
            fetch(root, year, split)
        except RuntimeError as error:
            sys.exit(f"prepare_voc: {error}")
        print(f"VOC {year} {split}: ready in {root / f'VOC{year}'}")


if __name__ == "__main__":
    main()
