"""Looks up the annotated objects of images for the explorer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.matching import ground_truth_instances
from flowdet.inference.annotation_file import AnnotationFile, ImageId


class TrueBox(NamedTuple):
    """An annotated object.

    Attributes:
        name: the name of its class.
        box: absolute xyxy in pixels of the original image.
        ignored: whether an evaluation ignores it (difficult or crowd).
    """

    name: str
    box: Sequence[float]
    ignored: bool = False


# Returns the annotated objects of the image of a dataset dict with `file_name`; None if they are
# unknown.
GroundTruth = Callable[[dict], list[TrueBox] | None]


def listed_ground_truth(
    annotations: AnnotationFile, image_ids: Mapping[Path, ImageId]
) -> GroundTruth:
    """Looks up the objects of image files in an annotation file.

    Args:
        annotations: the annotation file.
        image_ids: the image id of every file, see `AnnotationFile.image_ids`.

    Raises:
        ValueError: as `AnnotationFile.objects`.
    """
    objects = annotations.objects()
    ids = {os.fspath(file): image_id for file, image_id in image_ids.items()}

    def look_up(record: dict) -> list[TrueBox]:
        known = objects.get(ids[record["file_name"]], [])
        return [TrueBox(x["name"], x["box"], x["iscrowd"]) for x in known]

    return look_up


def known_ground_truth(cfg: CfgNode) -> GroundTruth:
    """Looks up the annotations of images in the test datasets of a config.

    Args:
        cfg: the resolved config of a detector. Datasets that do not exist on this machine are
            passed over.
    """
    # with the class names of the dataset, which may be others than the model's by now
    found: dict[str, tuple[dict, list[str]]] = {}
    for name in cfg.DATASETS.TEST:
        try:
            records = get_detection_dicts(name, keep_difficult=True)
        # the images may be from elsewhere
        except (OSError, ValueError, KeyError):
            continue
        meta = MetadataCatalog.get(name)
        if meta.get("annotated", True):
            names = list(meta.get("thing_classes") or cfg.MODEL.CLASS_NAMES)
            found |= {os.path.realpath(x["file_name"]): (x, names) for x in records}

    def look_up(record: dict) -> list[TrueBox] | None:
        known = found.get(os.path.realpath(record["file_name"]))
        return known and annotated_boxes(*known)

    return look_up


def annotated_boxes(record: dict, class_names: Sequence[str]) -> list[TrueBox]:
    """Returns the objects of a dataset dict with annotations."""
    objects = ground_truth_instances(record)
    columns = (objects.gt_classes, objects.gt_boxes.tensor, objects.ignored)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [TrueBox(class_names[index], box, ignored) for index, box, ignored in rows]
