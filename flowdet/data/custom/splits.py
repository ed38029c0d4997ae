"""The splits of a dataset, and the files and folders that are named after them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ALL", "SPLITS", "split_of", "split_of_path"]

SPLITS = ("train", "val", "test")
# the split of a dataset that is not divided
ALL = "all"
_SPLIT_WORDS = {
    "train": ("train", "training", "trainval", "trainset"),
    "val": ("val", "valid", "validation", "valset", "eval", "dev", "minival"),
    "test": ("test", "testing", "testset"),
}


def split_of(name: str) -> str | None:
    """Returns the split that a file or folder is named after, e.g. "train" for `train2017`.

    Names such as `train_val`, which contain the words of two splits, belong to none.
    """
    words = set(re.findall("[a-z]+", name.lower()))
    splits = [split for split in SPLITS if words & {*_SPLIT_WORDS[split]}]
    return splits[0] if len(splits) == 1 else None


def split_of_path(path: Path, folder: Path) -> str | None:
    """Returns the split that a path below `folder` belongs to, by its last part that names one."""
    parts = path.relative_to(folder).parts
    return next((split for part in reversed(parts) if (split := split_of(part))), None)
