"""Whether the images and annotations of a resumed training are those of its run."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Mapping

from detectron2.config import CfgNode

from flowdet.data.classification.datasets import get_classification_dicts
from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.engine.task_builders import DETECTION, task_of


def dataset_versions(cfg: CfgNode) -> dict[str, str]:
    """Returns the number of images and objects, and a checksum, of every dataset of a config.

    The checksum is that of the image ids, labels and boxes, not of the pixels.

    Raises:
        FileNotFoundError, ValueError: a dataset cannot be read.
    """
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    if task_of(cfg) is DETECTION:
        return {name: _version(get_detection_dicts(name, keep_difficult=True)) for name in names}
    return {name: _version(get_classification_dicts(name)) for name in names}


def _version(records: Iterable[dict]) -> str:
    checksum = images = objects = 0
    for record in records:
        annotations = record.get("annotations", [])
        boxes = [(x.get("category_id"), *map(float, x.get("bbox", ()))) for x in annotations]
        text = repr((str(record.get("image_id")), record.get("label"), boxes))
        checksum = zlib.crc32(text.encode("utf-8", "surrogateescape"), checksum)
        images, objects = images + 1, objects + len(boxes)
    counts = f"{images} images with {objects} objects" if objects else f"{images} images"
    return f"{counts} (checksum {checksum:08x})"


def warn_of_changed_datasets(earlier: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Logs a warning for every dataset that has other images or annotations than in the run.

    Args:
        earlier: the `dataset_versions` of the run. Datasets that it does not have are not compared.
        now: those of the resumed training.
    """
    for name, version in now.items():
        if (old := earlier.get(name, version)) != version:
            logging.getLogger(__name__).warning(
                "the dataset %s has changed since the run that --resume continues: it had %s and "
                "has %s now. Metrics before and after cannot be compared for this reason",
                name,
                old,
                version,
            )
