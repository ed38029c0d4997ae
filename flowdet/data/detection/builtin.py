"""Registers the digits dataset, and datasets in VOC layout by name.

detectron2 registers VOC and COCO itself (`voc_2007_trainval`, `coco_2017_train`, ...). A user's
folder is registered by `flowdet.data.custom`.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from flowdet.data.detection.digits import CLASS_NAMES, SPLITS
from flowdet.data.detection.voc import load_voc_dicts

__all__ = ["datasets_root", "register_digits", "register_voc"]


def datasets_root() -> Path:
    """Returns the folder of all datasets: $DETECTRON2_DATASETS, or `datasets`."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_voc(
    name: str, dirname: str | Path, split: str, class_names: Sequence[str], year: int = 2007
) -> None:
    """Registers a split in VOC layout; replaces an earlier dataset of that name.

    Args:
        name: name of the dataset in detectron2's catalogs.
        dirname: folder with JPEGImages/, Annotations/ and ImageSets/Main/.
        split: the name of a list in ImageSets/Main, without suffix.
        class_names: the class names by class index.
        year: selects the metric: 2007 is the 11-point metric, 2012 the area under the curve.

    Raises:
        ValueError: `year` is neither 2007 nor 2012.
    """
    if year not in (2007, 2012):
        raise ValueError(f"dataset {name!r}: year is {year}; it must be 2007 or 2012")
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    names = list(class_names)
    DatasetCatalog.register(name, partial(load_voc_dicts, dirname, split, names, True))
    MetadataCatalog.get(name).set(
        thing_classes=names,
        dirname=str(dirname),
        split=split,
        year=year,
        evaluator_type="pascal_voc",
    )


def register_digits(root: str | Path) -> None:
    """Registers `digits_train` and `digits_test`, whose files are in `root`/digits."""
    for split in SPLITS:
        register_voc(f"digits_{split}", Path(root) / "digits", split, CLASS_NAMES)


register_digits(datasets_root())
