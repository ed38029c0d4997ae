"""Registration of the datasets that come with flowdet, and of custom ones in VOC layout.

VOC and COCO themselves are registered by detectron2 (`voc_2007_trainval`, `coco_2017_train`, ...).
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
    """The folder that holds all datasets: $DETECTRON2_DATASETS, or `datasets`."""
    return Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_voc(
    name: str, dirname: str | Path, split: str, class_names: Sequence[str], year: int = 2007
) -> None:
    """Register a dataset in VOC layout, replacing an earlier one of that name.

    year picks the metric of the evaluator: 2007 the 11-point one, 2012 the area under the curve.
    """
    if year not in (2007, 2012):
        raise ValueError(f"Dataset {name!r}: year is {year}; it must be 2007 or 2012.")
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
    """Register `digits_train` and `digits_test`, which lie in `root`/digits."""
    for split in SPLITS:
        register_voc(f"digits_{split}", Path(root) / "digits", split, CLASS_NAMES)


register_digits(datasets_root())
