"""Selects examples of errors: the most confident false positives and the largest misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowdet.evaluation.error_analysis.breakdowns import Evaluated
from flowdet.evaluation.error_analysis.tide import TYPES, Errors
from flowdet.evaluation.matching import SCORE_THRESHOLD

# the number of examples of each kind
EXAMPLES = 20


@dataclass(frozen=True)
class FalsePositive:
    """A false positive.

    Attributes:
        image_id: the id of its image.
        box: absolute xyxy in pixels.
        class_name, score: its class and its score.
        error: its type, see `TYPES`.
        object_class, iou: the class of the object of any class with the highest IoU, and this IoU;
            None and 0 if the IoU with every object is below 0.1.
    """

    image_id: int | str
    box: list[float]
    class_name: str
    score: float
    error: str
    object_class: str | None
    iou: float


@dataclass(frozen=True)
class Miss:
    """An object without a true positive with a score of at least `SCORE_THRESHOLD`.

    Attributes:
        image_id: the id of its image.
        box: absolute xyxy in pixels.
        class_name: its class.
        error: "low score" if it has a true positive with a lower score; the type of the detection
            that would find it if its class or box were right; otherwise "missed".
        detected_class, score: the class and the score of that detection; None if it is missed.
    """

    image_id: int | str
    box: list[float]
    class_name: str
    error: str
    detected_class: str | None
    score: float | None


def confident_false_positives(
    data: Evaluated, errors: Errors, names: Sequence[str]
) -> list[FalsePositive]:
    """Returns the `EXAMPLES` false positives with the highest scores, the highest first."""
    detections, objects = data.detections, data.objects
    pairs = data.pairs.select(~objects.ignored[data.pairs.objects])
    nearest, ious = pairs.best(len(detections.scores))
    return [
        FalsePositive(
            detections.image_ids[detections.images[i]],
            detections.boxes[i].tolist(),
            names[detections.classes[i]],
            float(detections.scores[i]),
            TYPES[errors.types[i]],
            names[objects.classes[nearest[i]]] if nearest[i] >= 0 else None,
            float(ious[i]),
        )
        for i in np.flatnonzero(errors.types >= 0)[:EXAMPLES]
    ]


def largest_misses(data: Evaluated, errors: Errors, names: Sequence[str]) -> list[Miss]:
    """Returns the `EXAMPLES` largest missed objects by `Objects.areas`, the largest first."""
    detections, objects = data.detections, data.objects
    count = len(objects.classes)
    matched = np.flatnonzero(data.matches.correct)
    found = np.full(count, -1)
    found[data.matches.objects[matched]] = matched
    mendable = np.flatnonzero(errors.mendable)
    mended = np.full(count, -1)
    mended[errors.targets[mendable]] = mendable
    confident = np.append(detections.scores >= SCORE_THRESHOLD, False)[found]
    missed = np.flatnonzero(~confident & ~objects.ignored)
    largest = missed[np.argsort(-objects.areas[missed], kind="stable")][:EXAMPLES]
    misses = []
    for g in largest:
        # the detection that has found the object, or would find it
        i = found[g] if found[g] >= 0 else mended[g]
        error = "low score" if found[g] >= 0 else "missed" if i < 0 else TYPES[errors.types[i]]
        misses.append(
            Miss(
                detections.image_ids[data.objects.images[g]],
                objects.boxes[g].tolist(),
                names[objects.classes[g]],
                error,
                names[detections.classes[i]] if i >= 0 else None,
                float(detections.scores[i]) if i >= 0 else None,
            )
        )
    return misses
