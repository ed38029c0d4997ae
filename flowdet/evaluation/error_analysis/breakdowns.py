"""Curves, confusion matrix, average precision of groups of objects, and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flowdet.evaluation.calibration import CalibrationBin, calibration_bins, calibration_error
from flowdet.evaluation.error_analysis.average_precision import (
    RECALLS,
    class_average_precisions,
    mean_of_known,
    precision_at_recalls,
    split_by_class,
)
from flowdet.evaluation.error_analysis.matching import Matches, Objects, Pairs, assign, match
from flowdet.evaluation.matching import IOU_THRESHOLD, SCORE_THRESHOLD
from flowdet.evaluation.saved_detections import SavedDetections

# the areas at which COCO divides objects into small, medium and large
COCO_AREAS = (32.0**2, 96.0**2)
# the largest number of objects per image of each group but the last
OBJECT_COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class ClassCurve:
    """The precision-recall curve of a class.

    Attributes:
        name: the name of the class.
        objects: the number of objects.
        ap: the average precision in percent; nan without objects.
        precision: the highest precision at recall 0, 0.01 ... 1, or at a higher recall, in [0, 1];
            empty without objects.
        scores: the score threshold with which each recall is reached; None where it is not reached.
    """

    name: str
    objects: int
    ap: float
    precision: list[float]
    scores: list[float | None]


@dataclass(frozen=True)
class Group:
    """A part of the objects.

    Attributes:
        name: what they have in common.
        objects: their number.
        images: the number of images with such objects.
        ap: their mean average precision over the classes in percent; nan without objects.
    """

    name: str
    objects: int
    images: int
    ap: float


@dataclass(frozen=True)
class Calibration:
    """The calibration of scores.

    Attributes:
        error: the expected calibration error in percent, see `calibration_error`.
        bins: the bins from low to high confidence.
    """

    error: float
    bins: list[CalibrationBin]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What all parts of an analysis have in common.

    Attributes:
        detections: N detections by descending score.
        objects: the G objects.
        pairs: the pairs that overlap, of any classes.
        matches: the matches of the detections.
        num_classes: C.
        metric: the kind of average precision, see `average_precision`.
        coco: whether matches and groups are those of COCO.
    """

    detections: SavedDetections
    objects: Objects
    pairs: Pairs
    matches: Matches
    num_classes: int
    metric: str
    coco: bool

    @property
    def same_class(self) -> Pairs:
        """The pairs of equal classes."""
        pairs = self.pairs
        classes = self.detections.classes[pairs.detections]
        return pairs.select(classes == self.objects.classes[pairs.objects])

    def counts(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Returns the number of objects by class that are not ignored, [C]; with a mask [G], of
        those where it is True."""
        counted = ~self.objects.ignored if mask is None else mask & ~self.objects.ignored
        return np.bincount(self.objects.classes[counted], minlength=self.num_classes)

    def class_aps(
        self, matches: Matches, kept: np.ndarray, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the average precision by class in percent, [C], of the detections where `kept`
        [N] is True, for the objects where `mask` [G] is True."""
        kept = kept & ~matches.ignored
        counts = self.counts(mask)
        return class_average_precisions(
            self.detections.classes[kept], matches.correct[kept], counts, self.metric
        )


def class_curves(data: Evaluated, names: list[str]) -> list[ClassCurve]:
    """Returns the precision-recall curve of every class."""
    kept = np.flatnonzero(~data.matches.ignored)
    correct, scores = data.matches.correct[kept], data.detections.scores[kept]
    counts = data.counts()
    aps = class_average_precisions(data.detections.classes[kept], correct, counts, data.metric)
    curves = []
    for c, of_class in enumerate(split_by_class(data.detections.classes[kept], len(names))):
        precision: list[float] = []
        reached: list[float | None] = []
        if counts[c]:
            precision = precision_at_recalls(correct[of_class], counts[c]).tolist()
            recalls = np.cumsum(correct[of_class]) / counts[c]
            where = np.searchsorted(recalls, RECALLS, side="left")
            by_recall = [*scores[of_class].tolist(), None]
            reached = [by_recall[i] for i in where]
        curves.append(ClassCurve(names[c], int(counts[c]), float(aps[c]), precision, reached))
    return curves


def confusion_matrix(data: Evaluated) -> np.ndarray:
    """Counts detections with a score of at least `SCORE_THRESHOLD` by class and true class.

    True positives come first. The other detections, by descending score, then match the objects
    that are left at the same IoU threshold, whatever their class. What is still left counts as
    background. Ignored detections and ignored objects are not counted.

    Returns:
        int64 [C + 1, C + 1]: rows are the classes of objects, columns those of detections; the last
        row and the last column are the background.
    """
    background = data.num_classes
    confident = (data.detections.scores >= SCORE_THRESHOLD) & ~data.matches.ignored
    matched = np.where(confident, data.matches.objects, -1)
    free = ~data.objects.ignored
    free[matched[matched >= 0]] = False
    left = confident & (matched < 0)
    pairs = data.pairs
    pairs = pairs.select(
        left[pairs.detections] & free[pairs.objects] & (pairs.ious >= IOU_THRESHOLD)
    )
    matched = np.maximum(matched, assign(pairs, len(matched)))
    free[matched[matched >= 0]] = False
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    classes = np.append(data.objects.classes, background)
    # index -1 is the background
    np.add.at(matrix, (classes[matched[confident]], data.detections.classes[confident]), 1)
    np.add.at(matrix, (data.objects.classes[free], background), 1)
    return matrix


def groups_by_size(data: Evaluated) -> list[Group]:
    """Returns the groups of COCO (small, medium, large, by the annotated area), and three groups of
    about equally many objects. Without an annotated area that of the box counts.

    As in COCO's evaluation, objects outside of a group are ignored, and so are false positives
    whose area is outside.
    """
    areas = data.objects.areas
    counted = ~data.objects.ignored
    small, large = COCO_AREAS
    ranges = [("small: below 32² px", 0, small), ("medium: 32² to 96² px", small, large)]
    ranges.append(("large: 96² px or more", large, np.inf))
    if counted.any():
        third, second = np.quantile(areas[counted], [1 / 3, 2 / 3])
        low, high = f"{third**0.5:.0f}² px", f"{second**0.5:.0f}² px"
        ranges += [
            (f"smallest third: below {low}", 0, third),
            (f"middle third: {low} to {high}", third, second),
            (f"largest third: {high} or more", second, np.inf),
        ]
    return [_size_group(data, name, areas, low, high) for name, low, high in ranges]


def _size_group(data: Evaluated, name: str, areas: np.ndarray, low: float, high: float) -> Group:
    inside = (areas >= low) & (areas < high)
    boxes = data.detections.boxes.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    objects = data.objects
    ignored = objects.ignored | ~inside
    matches = match(data.same_class, len(area), ignored, objects.crowd, data.coco)
    kept = matches.correct | ((area >= low) & (area < high))
    return _group(data, name, inside, data.class_aps(matches, kept, inside))


def groups_by_count(data: Evaluated) -> list[Group]:
    """Returns groups of images by their number of objects, ignored ones not counted."""
    images = data.objects.images[~data.objects.ignored]
    counts = np.bincount(images, minlength=len(data.detections.image_ids))
    groups = []
    for name, low, high in _count_ranges():
        inside = (counts >= low) & (counts <= high)
        kept, mask = inside[data.detections.images], inside[data.objects.images]
        groups.append(_group(data, name, mask, data.class_aps(data.matches, kept, mask)))
    return [group for group in groups if group.objects]


def _count_ranges() -> Iterator[tuple[str, float, float]]:
    low = 1
    for high in OBJECT_COUNTS:
        name = "1 object" if high == 1 else f"{low} to {high} objects"
        yield f"{high} objects" if low == high > 1 else name, low, high
        low = high + 1
    yield f"{low} objects or more", low, np.inf


def _group(data: Evaluated, name: str, mask: np.ndarray, aps: np.ndarray) -> Group:
    images = np.unique(data.objects.images[mask & ~data.objects.ignored])
    return Group(name, int(data.counts(mask).sum()), len(images), mean_of_known(aps))


def calibrations(data: Evaluated) -> dict[str, Calibration]:
    """Returns the calibration of the scores; if they have been multiplied by the box stability,
    also of the class probabilities before.

    The keys are "with stability" and "without stability", or "scores" if there is no stability.
    Both have the same detections and the same matches.
    """
    kept = ~data.matches.ignored
    correct, scores = data.matches.correct[kept], data.detections.scores[kept].astype(np.float64)
    if data.detections.stability is None:
        return {"scores": _calibration(scores, correct)}
    # the product is positive, as detections with a score of 0 are dropped
    stability = data.detections.stability[kept].astype(np.float64)
    before = np.divide(scores, stability, out=scores.copy(), where=stability > 0)
    return {
        "without stability": _calibration(before.clip(max=1), correct),
        "with stability": _calibration(scores, correct),
    }


def _calibration(confidences: np.ndarray, correct: np.ndarray) -> Calibration:
    bins = calibration_bins(confidences, correct)
    return Calibration(100 * calibration_error(bins), bins)
