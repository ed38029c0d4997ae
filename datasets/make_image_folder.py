#!/usr/bin/env python
"""Writes the first images of a classification dataset to one folder per class.

From a registered dataset, image files are copied, and images in memory are written as PNG files:

    python datasets/make_image_folder.py --dataset cifar10 --train 10000 --test 2000

From an archive with the images of CIFAR-10 as JPEG files, their bytes are written unchanged:

    python datasets/make_image_folder.py --archive cifar10.npz --train 10000 --test 2000

The archive contains for each split, here train: `train_jpeg` (uint8, the concatenated files),
`train_offsets` (int64 [N + 1], the start of each file and the end of the last file) and
`train_labels` (class indices, [N]). If a dataset is sorted by class, its first images do not
represent it.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from flowdet.cli.common import at_least_one, user_errors
from flowdet.data.classification.datasets import CIFAR10_CLASSES, download, get_classification_dicts
from flowdet.data.detection.builtin import datasets_root


class Sample(NamedTuple):
    """An image and its class.

    Attributes:
        content: the bytes of a JPEG file, the path of a file, or pixels, uint8 [H, W] gray or
            [H, W, 3] RGB.
        class_name: the name of its class.
    """

    content: bytes | Path | np.ndarray
    class_name: str


def read_dataset(name: str, count: int) -> Iterator[Sample]:
    """Yields the first `count` images of a registered dataset.

    Raises:
        ValueError: the dataset has fewer images.
        FileNotFoundError, ValueError: as `get_classification_dicts`.
    """
    records = get_classification_dicts(name)
    _check_count(name, len(records), count)
    classes = MetadataCatalog.get(name).thing_classes
    for record in records[:count]:
        content = record["image"] if "image" in record else Path(record["file_name"])
        yield Sample(content, classes[record["label"]])


def read_archive(archive: Path, split: str, count: int) -> Iterator[Sample]:
    """Yields the first `count` images of a split, "train" or "test", of an archive of CIFAR-10.

    Raises:
        ValueError: the split has fewer images.
        KeyError: the archive lacks an array.
        OSError: the file cannot be read.
    """
    with np.load(archive) as arrays:
        jpeg, offsets, labels = (arrays[f"{split}_{x}"] for x in ("jpeg", "offsets", "labels"))
    _check_count(f"{split} of {archive}", len(labels), count)
    for i in range(count):
        yield Sample(jpeg[offsets[i] : offsets[i + 1]].tobytes(), CIFAR10_CLASSES[labels[i]])


def write_image_folder(
    splits: dict[str, Iterator[Sample]], class_names: list[str], output: Path
) -> dict[str, Counter]:
    """Writes `output/<split>/<class>/<number>.<suffix>`. After an error no files are left.

    Args:
        splits: the images by split.
        class_names: the class names; each class gets a folder, even if it has no images.
        output: the folder to write.

    Returns:
        The number of images of each class, by split.

    Raises:
        FileExistsError: `output` exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists: remove it, or choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".folder-", dir=output.parent) as scratch:
        new = Path(scratch) / output.name
        counts = {
            split: _write_split(samples, class_names, new / split)
            for split, samples in splits.items()
        }
        new.rename(output)
    return counts


def _write_split(samples: Iterator[Sample], class_names: list[str], folder: Path) -> Counter:
    counts = Counter({name: 0 for name in class_names})
    for name in class_names:
        (folder / name).mkdir(parents=True)
    for i, (content, name) in enumerate(samples):
        counts[name] += 1
        # numbered, so that the images of a class keep the order of the source
        _write(content, folder / name / f"{i:05d}")
    return counts


def _write(content: bytes | Path | np.ndarray, stem: Path) -> None:
    if isinstance(content, bytes):
        stem.with_suffix(".jpg").write_bytes(content)
    elif isinstance(content, Path):
        shutil.copy(content, stem.with_suffix(content.suffix))
    else:
        Image.fromarray(content).save(stem.with_suffix(".png"))


def _check_count(name: str, available: int, requested: int) -> None:
    if available < requested:
        raise ValueError(f"{name} has {available} images, fewer than {requested}")


def _sources(args: argparse.Namespace) -> tuple[dict[str, Iterator[Sample]], list[str]]:
    """Returns the images to write by split, and the class names."""
    counts = {"train": args.train, "test": args.test}
    if args.archive:
        splits = {s: read_archive(args.archive, s, n) for s, n in counts.items()}
        return splits, list(CIFAR10_CLASSES)
    # Tiny-ImageNet has labels for the training and validation images only
    test = "test" if f"{args.dataset}_test" in DatasetCatalog.list() else "val"
    names = {"train": f"{args.dataset}_train", "test": f"{args.dataset}_{test}"}
    if args.download:
        download(names.values())
    for name in names.values():
        get_classification_dicts(name)  # fills in the class names of some datasets
    splits = {s: read_dataset(names[s], n) for s, n in counts.items()}
    return splits, MetadataCatalog.get(names["train"]).thing_classes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", default="cifar10", help="name without _train or _test (default: %(default)s)"
    )
    parser.add_argument("--archive", type=Path, help="read this .npz file instead of --dataset")
    parser.add_argument(
        "--download", action="store_true", help="download the dataset if it is missing"
    )
    parser.add_argument(
        "--train",
        type=at_least_one,
        default=10000,
        help="number of training images (default: %(default)s)",
    )
    parser.add_argument(
        "--test",
        type=at_least_one,
        default=2000,
        help="number of test images (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder to write (default: DATASET_subset in the datasets folder)",
    )
    args = parser.parse_args()
    output = args.output or datasets_root() / f"{args.dataset}_subset"
    with user_errors():
        counts = write_image_folder(*_sources(args), output)
    for split, class_counts in counts.items():
        least, most = min(class_counts.values()), max(class_counts.values())
        print(
            f"{output / split}: {sum(class_counts.values())} images of {len(class_counts)} "
            f"classes, {least} to {most} each"
        )


if __name__ == "__main__":
    main()
