#!/usr/bin/env python
"""Downloads PASCAL VOC 2007 (trainval, test) and 2012 (trainval) with torchvision.

    python datasets/prepare_voc.py
    python datasets/prepare_voc.py --root ~/data --years 2007

The datasets are written to <root>/VOC2007 and <root>/VOC2012, where detectron2 expects them.
Complete splits are not downloaded again, and existing files are not changed. The download is about
3 GB; unpacking needs about 6 GB of disk space.
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
    """Returns whether a VOC folder has the list of a split and all its images and annotations."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        return False
    ids = listing.read_text().split()
    images = {path.stem for path in (folder / "JPEGImages").glob("*.jpg")}
    annotations = {path.stem for path in (folder / "Annotations").glob("*.xml")}
    return bool(ids) and images.issuperset(ids) and annotations.issuperset(ids)


def move_files(source: Path, target: Path) -> int:
    """Moves all files in `source` to the same relative paths in `target`.

    Files that exist in `target` are kept.

    Returns:
        The number of files that were moved.
    """
    moved = 0
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        destination = target / path.relative_to(source)
        if destination.exists():
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, destination)
        moved += 1
    return moved


def fetch(root: Path, year: str, split: str) -> None:
    """Downloads a split to `root`/VOC<year> and checks that it is complete.

    Raises:
        RuntimeError: the download failed, or files are missing after it.
    """
    target = root / f"VOC{year}"
    with tempfile.TemporaryDirectory(prefix=".voc-", dir=root) as scratch:
        try:
            VOCDetection(scratch, year=year, image_set=split, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise RuntimeError(
                f"VOC {year} {split} could not be downloaded: {error}. Check the network and the "
                f"free disk space, or unpack the official archive yourself so that {target} has "
                "the folders Annotations, ImageSets and JPEGImages"
            ) from error
        move_files(Path(scratch) / "VOCdevkit" / f"VOC{year}", target)
    if not is_complete(target, split):
        raise RuntimeError(f"{target} lacks files of split {split}: remove it and try again")


def parse_args() -> argparse.Namespace:
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=root, help="folder of all datasets (default: %(default)s)"
    )
    parser.add_argument(
        "--years",
        nargs="+",
        choices=SPLITS,
        default=list(SPLITS),
        help="years to download (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    root = args.root.expanduser()
    root.mkdir(parents=True, exist_ok=True)
    for year, split in [(y, s) for y in args.years for s in SPLITS[y]]:
        if is_complete(root / f"VOC{year}", split):
            print(f"VOC {year} {split}: exists")
            continue
        try:
            fetch(root, year, split)
        except RuntimeError as error:
            sys.exit(f"prepare_voc: {error}")
        print(f"VOC {year} {split}: written to {root / f'VOC{year}'}")


if __name__ == "__main__":
    main()
