"""Analyses the errors of a detector from its saved detections."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from flowdet.data.detection.loaders import get_detection_dicts
from flowdet.evaluation.error_analysis.average_precision import (
    COCO,
    VOC_2007,
    VOC_2010,
    mean_of_known,
)
from flowdet.evaluation.error_analysis.breakdowns import (
    Calibration,
    ClassCurve,
    Evaluated,
    Group,
    calibrations,
    class_curves,
    confusion_matrix,
    groups_by_count,
    groups_by_size,
)
from flowdet.evaluation.error_analysis.examples import (
    FalsePositive,
    Miss,
    confident_false_positives,
    largest_misses,
)
from flowdet.evaluation.error_analysis.matching import match, objects_of, overlapping_pairs, ranked
from flowdet.evaluation.error_analysis.tide import (
    BACKGROUND_IOU,
    TYPES,
    Errors,
    find_errors,
    mended_precision,
)
from flowdet.evaluation.matching import IOU_THRESHOLD, SCORE_THRESHOLD
from flowdet.evaluation.saved_detections import SavedDetections


@dataclass(frozen=True)
class TideError:
    """A type of errors.

    Attributes:
        count: the number of errors.
        dap: the AP that mending all of them would bring, in percentage points, at least 0.
    """

    count: int
    dap: float


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Why the average precision of a detector is what it is. All AP are at an IoU of 0.5.

    Attributes:
        dataset: the name of the dataset.
        metric: the kind of average precision: that of the dataset's evaluation.
        images, objects, detections: their numbers; ignored objects and detections are not counted.
        ap50: the mean average precision in percent.
        tide: the errors by the name of their type (Bolya et al. 2020): classification,
            localisation, both, duplicate, background, missed.
        false_positives, false_negatives: the AP that removing all false positives, or finding all
            objects, would bring, in percentage points.
        curves: the precision-recall curve of every class.
        confusion: detections with a score of at least `score_threshold` by class, see
            `confusion_matrix`; the last row and column are the background.
        by_size, by_count: AP by object size, and by number of objects per image.
        calibration: the calibration of scores, see `calibrations`.
        confident: the false positives with the highest scores.
        misses: the largest objects without a true positive with a score of at least
            `score_threshold`.
        iou_threshold, background_iou, score_threshold: the thresholds.
    """

    dataset: str
    metric: str
    images: int
    objects: int
    detections: int
    ap50: float
    tide: dict[str, TideError]
    false_positives: float
    false_negatives: float
    curves: list[ClassCurve]
    confusion: list[list[int]]
    by_size: list[Group]
    by_count: list[Group]
    calibration: dict[str, Calibration]
    confident: list[FalsePositive]
    misses: list[Miss]
    iou_threshold: float = IOU_THRESHOLD
    background_iou: float = BACKGROUND_IOU
    score_threshold: float = SCORE_THRESHOLD

    @property
    def class_names(self) -> list[str]:
        """The class names by class index."""
        return [curve.name for curve in self.curves]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content as numbers, texts, lists and dicts for JSON; None stands for nan."""
        return _plain(self)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def analyze_saved(path: Path, dataset: str) -> ErrorAnalysis:
    """Analyses the detections in a file that an evaluation has saved.

    Args:
        path: the file, see `SavedDetections.save`.
        dataset: the dataset of the evaluation.

    Raises:
        OSError, KeyError: the file or the dataset cannot be read.
        ValueError: the detections are for other images or classes; also as `get_detection_dicts`.
    """
    detections = SavedDetections.load(path)
    if detections.dataset != dataset:
        raise ValueError(f"{path} has detections for {detections.dataset!r}, not for {dataset!r}")
    return analyze_dataset(detections)


def analyze_dataset(detections: SavedDetections) -> ErrorAnalysis:
    """Analyses detections in images of a registered dataset.

    Raises:
        OSError: the dataset cannot be read.
        ValueError: an image or a class is not in the dataset; also as `get_detection_dicts`.
    """
    name = detections.dataset
    by_id = {r["image_id"]: r for r in get_detection_dicts(name, keep_difficult=True)}
    missing = [i for i in detections.image_ids if i not in by_id]
    if missing:
        raise ValueError(
            f"image {missing[0]} of the saved detections is not in dataset {name!r}: evaluate again"
        )
    meta = MetadataCatalog.get(name)
    largest = detections.classes.max(initial=-1)
    if largest >= len(meta.thing_classes):
        raise ValueError(
            f"the saved detections have a class {largest}, but dataset {name!r} has "
            f"{len(meta.thing_classes)} classes: evaluate again"
        )
    metric = COCO
    if meta.get("evaluator_type") == "pascal_voc":
        metric = VOC_2007 if meta.year == 2007 else VOC_2010
    records = [by_id[i] for i in detections.image_ids]
    return analyze(detections, records, list(meta.thing_classes), metric)


def analyze(
    detections: SavedDetections,
    records: Sequence[dict],
    class_names: Sequence[str],
    metric: str,
) -> ErrorAnalysis:
    """Analyses detections.

    Args:
        detections: the detections.
        records: the dataset dicts of its images, with their annotations, in the same order.
        class_names: the class names by class index.
        metric: `VOC_2007`, `VOC_2010` or `COCO`. It also selects how detections are matched.
    """
    coco = metric == COCO
    detections, objects = ranked(detections, coco), objects_of(records)
    pairs = overlapping_pairs(detections, objects, BACKGROUND_IOU)
    same = detections.classes[pairs.detections] == objects.classes[pairs.objects]
    count = len(detections.scores)
    matches = match(pairs.select(same), count, objects.ignored, objects.crowd, coco)
    data = Evaluated(detections, objects, pairs, matches, len(class_names), metric, coco)
    errors = find_errors(pairs, detections.classes, objects, matches)
    curves = class_curves(data, list(class_names))
    ap50 = mean_of_known(np.array([curve.ap for curve in curves]))
    found = np.isin(np.arange(len(objects.classes)), matches.objects)
    perfect_precision = mean_of_known(data.class_aps(matches, matches.correct))
    perfect_recall = mean_of_known(data.class_aps(matches, np.ones(count, bool), found))
    if data.counts().any() and not data.counts(found).any():
        # as in `mended_precision`: no object is left that could be missed
        perfect_recall = 100.0
    return ErrorAnalysis(
        dataset=detections.dataset,
        metric=metric,
        images=len(records),
        objects=int((~objects.ignored).sum()),
        detections=int((~matches.ignored).sum()),
        ap50=ap50,
        tide=_tide_errors(data, errors, ap50),
        false_positives=perfect_precision - ap50,
        false_negatives=perfect_recall - ap50,
        curves=curves,
        confusion=confusion_matrix(data).tolist(),
        by_size=groups_by_size(data),
        by_count=groups_by_count(data),
        calibration=calibrations(data),
        confident=confident_false_positives(data, errors, class_names),
        misses=largest_misses(data, errors, class_names),
    )


def _tide_errors(data: Evaluated, errors: Errors, ap50: float) -> dict[str, TideError]:
    def dap(index: int) -> float:
        mended = mended_precision(
            {index},
            errors,
            data.detections.classes,
            data.objects,
            data.matches,
            data.num_classes,
            data.metric,
        )
        # fewer objects move the recalls at which VOC 2007 and COCO read the precision
        return float(np.maximum(mended - ap50, 0))

    return {name: TideError(errors.count(i), dap(i)) for i, name in enumerate(TYPES)}
