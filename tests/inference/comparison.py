"""Comparison of detections with the tolerances that a user would notice."""

import torch
from torch.testing import assert_close

PIXELS, PROBABILITY = 0.01, 1e-4


def assert_same_detections(detections, expected):
    """Boxes may differ by 0.01 pixel and scores by 1e-4."""
    assert torch.equal(detections.pred_classes, expected.pred_classes)
    assert_close(detections.scores, expected.scores, atol=PROBABILITY, rtol=0)
    assert_close(detections.pred_boxes.tensor, expected.pred_boxes.tensor, atol=PIXELS, rtol=0)


def assert_same_probabilities(probabilities, expected):
    """Probabilities may differ by 1e-4."""
    assert_close(probabilities, expected, atol=PROBABILITY, rtol=0)
