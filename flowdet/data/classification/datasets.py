"""Registers classification datasets with detectron2 and reads them.

Importing this module registers them. A dataset is a list of dicts with

    image_id   a unique number or text
    label      the class index, an index into `thing_classes` of the dataset's metadata
    image      the pixels, uint8 [H, W] gray or [H, W, 3] RGB; or, instead of `image`,
    file_name  the path of an image
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.datasets.utils import download_and_extract_archive

from flowdet.data.custom.findings import log_once
from flowdet.data.custom.image_finder import is_hidden, walk
from flowdet.data.detection.builtin import datasets_root
from flowdet.data.detection.digits import read_digits
from flowdet.data.detection.loaders import check_registered
from flowdet.data.image_files import (
    conversion_hint,
    image_suffixes,
    left_out_message,
    names_of,
    passed_over_message,
)

__all__ = [
    "CIFAR10_CLASSES",
    "download",
    "get_classification_dicts",
    "register_classification_datasets",
    "register_image_folder",
]

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

# URL and MD5 of each archive
_TINY_IMAGENET = (
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
)
_IMAGENET_R = (
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    "a61312130a589d0ca1a8fca1f2bd3337",
)
# by dataset name: a function that downloads the files of the dataset unless they exist
_fetchers: dict[str, Callable[[], object]] = {}

# a function that reads a dataset and returns its class names and its dicts
Reader = Callable[[], tuple[Sequence[str], list[dict]]]


def get_classification_dicts(dataset_name: str) -> list[dict]:
    """Returns the dicts of a registered classification dataset.

    Args:
        dataset_name: name in detectron2's catalogs.

    Raises:
        ValueError: the dataset is not registered, has no images, labels or class names, has a label
            outside of its classes, or has two images with the same id.
        FileNotFoundError: the files of the dataset are missing.
    """
    check_registered(dataset_name)
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"dataset {dataset_name!r} has no image")
    classes = MetadataCatalog.get(dataset_name).get("thing_classes")
    if "label" not in records[0] or classes is None:
        raise ValueError(
            f"dataset {dataset_name!r} is not for classification: its dicts need a 'label' and its "
            "metadata needs thing_classes"
        )
    for record in records:
        if not 0 <= record["label"] < len(classes):
            raise ValueError(
                f"dataset {dataset_name!r}: image {record['image_id']} has label "
                f"{record['label']}, but there are {len(classes)} classes"
            )
    if len({record["image_id"] for record in records}) < len(records):
        raise ValueError(f"dataset {dataset_name!r} has two images with the same image_id")
    return records


def register_image_folder(name: str, folder: str | Path) -> None:
    """Registers the images `folder/<class>/**`; replaces an earlier dataset of that name.

    The class names are the names of the subfolders in alphabetical order. The metadata contains
    them once the dataset has been read. A class may be empty.

    Args:
        name: name of the dataset in detectron2's catalogs.
        folder: a folder with one subfolder per class.
    """
    _register_folder(name, Path(folder).expanduser(), "give a folder with one subfolder per class")


def register_classification_datasets(root: str | Path) -> None:
    """Registers flowdet's classification datasets; replaces earlier datasets of these names.

    Args:
        root: the folder of all datasets, see datasets/README.md.
    """
    root = Path(root)
    for split in ("train", "test"):
        _register(f"sklearn_digits_{split}", partial(_read_digits, split), tuple("0123456789"))
        _register_torchvision(f"cifar10_{split}", CIFAR10, root, CIFAR10_CLASSES)
        _register_torchvision(f"cifar100_{split}", CIFAR100, root)
        _register_torchvision(f"mnist_{split}", MNIST, root, MNIST.classes)
        _register_folder(
            f"cifar10_subset_{split}",
            root / "cifar10_subset" / split,
            "make it with datasets/make_image_folder.py",
        )
        folder = root / "imagenet-r"
        read = partial(_read_imagenet_r, folder, split)
        _register(f"imagenet_r_{split}", read, fetch=partial(_fetch_archive, *_IMAGENET_R, folder))
    for split in ("train", "val"):
        folder = root / "tiny-imagenet-200"
        read = partial(_read_tiny_imagenet, folder, split)
        fetch = partial(_fetch_archive, *_TINY_IMAGENET, folder)
        _register(f"tiny_imagenet_{split}", read, fetch=fetch)


def download(names: Iterable[str]) -> None:
    """Downloads the files of registered datasets unless they exist, with torchvision's code.

    In a distributed run one process per machine downloads while the others wait.

    Args:
        names: names of datasets in detectron2's catalogs.

    Raises:
        OSError: a download failed.
        ValueError: a dataset is not registered, or its files are missing and cannot be downloaded;
            the message says how to get them.
    """
    for name in names:
        check_registered(name)
        if comm.get_local_rank() == 0 and name in _fetchers:
            try:
                _fetchers[name]()
            # torchvision raises it if a host does not respond or a checksum is wrong
            except RuntimeError as error:
                raise OSError(f"dataset {name!r} could not be downloaded: {error}") from error
    comm.synchronize()


def _register(
    name: str,
    read: Reader,
    classes: Sequence[str] | None = None,
    fetch: Callable[[], object] | None = None,
    hint: str = "set DATASETS.DOWNLOAD True to download it",
) -> None:
    """Adds a dataset to detectron2's catalogs.

    Args:
        name: name of the dataset.
        read: reads the dataset.
        classes: the class names; None takes them from the dataset when it is read.
        fetch: downloads the files unless they exist; None for a dataset without files.
        hint: what to do if files are missing, for the error message.
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, partial(_read, name, read, hint))
    MetadataCatalog.get(name).evaluator_type = "classification"
    if classes is not None:
        MetadataCatalog.get(name).thing_classes = list(classes)
    _fetchers.pop(name, None)
    if fetch is not None:
        _fetchers[name] = fetch


def _read(name: str, read: Reader, hint: str) -> list[dict]:
    try:
        classes, records = read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"dataset {name!r}: {error}: {hint}") from error
    MetadataCatalog.get(name).thing_classes = list(classes)
    return records


def _register_torchvision(
    name: str, kind: type, root: Path, classes: Sequence[str] | None = None
) -> None:
    read = partial(_read_torchvision, kind, root, name.endswith("_train"))
    _register(name, read, classes, fetch=partial(kind, root, download=True))


def _register_folder(name: str, folder: Path, hint: str) -> None:
    """Registers a folder of images that cannot be downloaded."""

    def fetch() -> None:
        if not folder.is_dir():
            raise ValueError(
                f"dataset {name!r}: there is no folder {folder}, and it cannot be downloaded: "
                f"{hint}"
            )

    _register(name, partial(_read_folder, folder), fetch=fetch, hint=hint)


def _read_digits(split: str) -> tuple[Sequence[str], list[dict]]:
    """Reads scikit-learn's digits, 8x8 pixels, split as in the detection dataset."""
    images, labels, indices = read_digits(split)
    images = np.round(images * (255 / 16)).astype(np.uint8)
    return tuple("0123456789"), [
        {"image_id": int(row), "label": int(label), "image": image}
        for image, label, row in zip(images, labels, indices)
    ]


def _read_torchvision(kind: type, root: Path, train: bool) -> tuple[Sequence[str], list[dict]]:
    """Reads a torchvision dataset that stores its images as one array."""
    try:
        source = kind(root, train=train)
    # torchvision checks the form of MNIST's files by assertions
    except (RuntimeError, ValueError, AssertionError) as error:
        folder = root / getattr(kind, "base_folder", "MNIST/raw")
        raise FileNotFoundError(
            f"folder {folder} is missing, or its files differ from the original ones"
        ) from error
    images = np.asarray(source.data)
    return source.classes, [
        {"image_id": i, "label": int(label), "image": image}
        for i, (image, label) in enumerate(zip(images, np.asarray(source.targets)))
    ]


def _read_folder(folder: Path) -> tuple[Sequence[str], list[dict]]:
    """Reads a folder with one subfolder per class; image ids are the paths relative to it.

    Hidden files and folders are left out. torchvision's ImageFolder takes `.ipynb_checkpoints` for
    a class, leaves out gif and avif files, and follows a link to a folder above it many times.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    folders = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    # sorted as torchvision sorts them
    classes = sorted(path.name for path in folders)
    if not classes:
        raise FileNotFoundError(f"folder {folder} has no subfolder")
    files = {
        name: sorted(walk(folder / name), key=lambda x: (str(x.parent), x.name)) for name in classes
    }
    _tell_left_out(folder, [path for paths in files.values() for path in paths])
    return classes, [
        {
            "image_id": path.relative_to(folder).as_posix(),
            "label": label,
            "file_name": str(path),
        }
        for label, name in enumerate(classes)
        for path in files[name]
        if path.suffix.lower() in image_suffixes()
    ]


def _tell_left_out(folder: Path, files: Sequence[Path]) -> None:
    """Logs which pictures belong to no class, or have a format that cannot be read."""
    others = [path for path in files if path.suffix.lower() not in image_suffixes()]
    unreadable = [path for path in others if conversion_hint(path)]
    if unreadable:
        log_once(f"{folder}: {passed_over_message(unreadable)}")
    if others := [path for path in others if not conversion_hint(path)]:
        log_once(f"{folder}: {left_out_message(others)}")
    beside = [x for x in folder.iterdir() if not x.is_dir() and not is_hidden(x.name)]
    beside = sorted(x for x in beside if x.suffix.lower() in image_suffixes())
    if beside:
        log_once(f"{folder}: left out, because they are in no subfolder: {names_of(beside)}")


def _read_imagenet_r(folder: Path, split: str) -> tuple[Sequence[str], list[dict]]:
    """Reads a split of ImageNet-R, which has no official splits.

    The test images are the fifth of each class with the lowest SHA-256 of their ids.
    """
    classes, records = _read_folder(folder)
    by_class = defaultdict(list)
    for record in records:
        by_class[record["label"]].append(record["image_id"])
    test = {i for ids in by_class.values() for i in sorted(ids, key=_sha256)[: round(len(ids) / 5)]}
    is_test = split == "test"
    return classes, [record for record in records if (record["image_id"] in test) == is_test]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _read_tiny_imagenet(folder: Path, split: str) -> tuple[Sequence[str], list[dict]]:
    """Reads Tiny-ImageNet as unpacked, or with the validation images in one folder per class."""
    listing, images = folder / "val" / "val_annotations.txt", folder / "val" / "images"
    if split == "train" or not (listing.is_file() and images.is_dir()):
        return _read_folder(folder / split)
    rows = [line.split("\t")[:2] for line in listing.read_text(encoding="utf-8").splitlines()]
    classes = sorted({wnid for _, wnid in rows})
    labels = {wnid: label for label, wnid in enumerate(classes)}
    return classes, [
        {"image_id": file, "label": labels[wnid], "file_name": str(images / file)}
        for file, wnid in rows
    ]


def _fetch_archive(url: str, md5: str, folder: Path) -> None:
    """Downloads and unpacks an archive whose only entry is `folder`, unless `folder` exists."""
    if folder.is_dir():
        return
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    # moved when it is complete, so that an existing folder always contains the whole dataset
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=root) as scratch:
        download_and_extract_archive(url, root, extract_root=scratch, md5=md5)
        (Path(scratch) / folder.name).rename(folder)


register_classification_datasets(datasets_root())
