"""Average precision from true and false positives, in the three variants of VOC and COCO."""

from __future__ import annotations

import numpy as np
from detectron2.evaluation.pascal_voc_evaluation import voc_ap

# recalls at which COCO averages the precision
RECALLS = np.linspace(0, 1, 101)

VOC_2007, VOC_2010, COCO = "VOC 2007 11-point", "area under the curve", "COCO 101-point"


def precision_at_recalls(correct: np.ndarray, objects: int) -> np.ndarray:
    """Returns the highest precision at each of `RECALLS` or at a higher recall, [101]; 0 where the
    recall is not reached.

    Args:
        correct: whether each detection is a true positive, by descending score, [N].
        objects: the number of objects, at least 1.
    """
    positives = np.cumsum(correct)
    precision = positives / np.arange(1, len(positives) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    where = np.searchsorted(positives / objects, RECALLS, side="left")
    return np.append(envelope, 0.0)[where]


def average_precision(correct: np.ndarray, objects: int, metric: str) -> float:
    """Returns the average precision in [0, 1]; for the arguments see `precision_at_recalls`.

    Args:
        metric: `VOC_2007`, `VOC_2010` or `COCO`.
    """
    if metric == COCO:
        return float(precision_at_recalls(correct, objects).mean())
    positives = np.cumsum(correct)
    precision = positives / np.arange(1, len(positives) + 1)
    return float(voc_ap(positives / objects, precision, metric == VOC_2007))


def class_average_precisions(
    classes: np.ndarray, correct: np.ndarray, objects: np.ndarray, metric: str
) -> np.ndarray:
    """Returns the average precision of each class in percent, [C]; nan for classes without objects.

    Args:
        classes: the class of each detection, by descending score, [N].
        correct: whether each detection is a true positive, [N].
        objects: the number of objects of each class, [C].
        metric: see `average_precision`.
    """
    values = np.full(len(objects), np.nan)
    for c, of_class in enumerate(split_by_class(classes, len(objects))):
        if objects[c] > 0:
            values[c] = 100 * average_precision(correct[of_class], int(objects[c]), metric)
    return values


def split_by_class(classes: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns the indices of the detections of each class, in their order."""
    order = np.argsort(classes, kind="stable")
    return np.split(order, np.searchsorted(classes[order], np.arange(1, count)))


def mean_of_known(values: np.ndarray) -> float:
    """Returns the mean of the values that are not nan; nan if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
