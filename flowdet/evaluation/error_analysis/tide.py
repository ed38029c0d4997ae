"""The error types of TIDE, and the average precision that mending each would bring.

Bolya, Foley, Hays and Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020, sections 2.2 and 2.3. Where the paper leaves a choice, this follows the authors' program:
the order in which types are tried, and that of several detections that could be mended to find the
same object only the one with the highest score is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from flowdet.evaluation.error_analysis.average_precision import (
    class_average_precisions,
    mean_of_known,
)
from flowdet.evaluation.error_analysis.matching import Matches, Objects, Pairs
from flowdet.evaluation.matching import IOU_THRESHOLD

# a detection whose IoU with every object is not above it is on the background
BACKGROUND_IOU = 0.1

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)
MISSED = 5
TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of N detections and of G objects.

    Attributes:
        types: the type of each false positive, an index of `TYPES`; -1 for true positives and for
            ignored detections, [N].
        targets: the object that a detection would find if its class (classification) or its box
            (localisation) were right; -1 for other detections, [N].
        mendable: whether a detection would become a true positive if it were mended, bool [N]. The
            others with a target would be removed, because their object is found without them.
        missed: whether an object is not found, and no mended detection would find it, bool [G].
    """

    types: np.ndarray
    targets: np.ndarray
    mendable: np.ndarray
    missed: np.ndarray

    def count(self, index: int) -> int:
        """Returns the number of errors of a type, an index of `TYPES`."""
        return int(self.missed.sum() if index == MISSED else (self.types == index).sum())


def find_errors(pairs: Pairs, classes: np.ndarray, objects: Objects, matches: Matches) -> Errors:
    """Finds the type of every error.

    Args:
        pairs: the pairs with an IoU of at least `BACKGROUND_IOU`, of any classes.
        classes: the classes of the N detections, which are sorted by descending score.
        objects: the G objects. Ignored objects play no role.
        matches: the matches of the detections.
    """
    count = len(classes)
    pairs = pairs.select(~objects.ignored[pairs.objects])
    same = classes[pairs.detections] == objects.classes[pairs.objects]
    right, right_iou = pairs.select(same).best(count)
    other, other_iou = pairs.select(~same).best(count)
    types = np.select(
        [
            (right_iou >= BACKGROUND_IOU) & (right_iou < IOU_THRESHOLD),
            other_iou >= IOU_THRESHOLD,
            right_iou >= IOU_THRESHOLD,
            other_iou <= BACKGROUND_IOU,
        ],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    types[matches.correct | matches.ignored] = -1
    targets = np.select([types == LOCALISATION, types == CLASSIFICATION], [right, other], -1)
    found = np.zeros(len(objects.classes), dtype=bool)
    found[matches.objects[matches.correct]] = True
    candidates = np.flatnonzero(targets >= 0)
    candidates = candidates[~found[targets[candidates]]]
    # the first detection of each object has the highest score
    objects_found, first = np.unique(targets[candidates], return_index=True)
    mendable = np.zeros(count, dtype=bool)
    mendable[candidates[first]] = True
    missed = ~(found | objects.ignored)
    missed[objects_found] = False
    return Errors(types, targets, mendable, missed)


def mended_precision(
    mended: Collection[int],
    errors: Errors,
    classes: np.ndarray,
    objects: Objects,
    matches: Matches,
    num_classes: int,
    metric: str,
) -> float:
    """Returns the mean average precision after errors have been mended, in percent.

    Detections with a wrong class or box get the right one, all other false positives are removed,
    and missed objects are no longer counted. Classes of which no object is left are left out of the
    mean; if no class is left, it is 100.

    Args:
        mended: the types to mend, as indices of `TYPES`; none for the average precision as it is.
        errors: the errors.
        classes, objects, matches: see `find_errors`.
        num_classes: C.
        metric: see `average_precision`.
    """
    chosen = np.isin(errors.types, list(mended))
    becomes_correct = chosen & errors.mendable
    new_classes = classes.copy()
    new_classes[becomes_correct] = objects.classes[errors.targets[becomes_correct]]
    kept = ~matches.ignored & (~chosen | becomes_correct)
    correct = matches.correct | becomes_correct
    counted = ~objects.ignored
    if MISSED in mended:
        counted &= ~errors.missed
    counts = np.bincount(objects.classes[counted], minlength=num_classes)
    values = class_average_precisions(new_classes[kept], correct[kept], counts, metric)
    if not counts.any() and not objects.ignored.all():
        return 100.0
    return mean_of_known(values)
