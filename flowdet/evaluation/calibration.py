"""Calibration: whether a score of 0.8 means that 80 % of such detections are true positives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 15


class CalibrationBin(NamedTuple):
    """Detections with about the same confidence.

    Attributes:
        confidence: their mean confidence.
        precision: the share of true positives.
        count: their number.
    """

    confidence: float
    precision: float
    count: int


def calibration_bins(confidences: np.ndarray, correct: np.ndarray) -> list[CalibrationBin]:
    """Groups N detections by confidence.

    Args:
        confidences: in [0, 1], [N].
        correct: whether each detection is a true positive, [N].

    Returns:
        The bins that are not empty, of `BINS` bins of equal width, from low to high confidence.
    """
    numbers = np.minimum(np.asarray(confidences) * BINS, BINS - 1).astype(int)
    counts = np.bincount(numbers, minlength=BINS)
    confidence = np.bincount(numbers, confidences, BINS)
    positives = np.bincount(numbers, correct, BINS)
    return [
        CalibrationBin(confidence[b] / counts[b], positives[b] / counts[b], int(counts[b]))
        for b in np.flatnonzero(counts)
    ]


def calibration_error(bins: list[CalibrationBin]) -> float:
    """Returns the expected calibration error in [0, 1]: the absolute difference between mean
    confidence and precision, averaged over the bins, weighted by their number of detections.

    It is nan without detections.
    """
    total = sum(b.count for b in bins)
    if not total:
        return float("nan")
    return float(sum(b.count * abs(b.confidence - b.precision) for b in bins) / total)
