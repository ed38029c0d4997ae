"""Curves, confusion matrix, groups of objects, calibration and examples, by hand."""

import json

import numpy as np
import pytest

from flowdet.evaluation.error_analysis import analyze
from flowdet.evaluation.error_analysis.average_precision import COCO, VOC_2010
from flowdet.evaluation.error_analysis.examples import EXAMPLES
from tests.evaluation.error_analysis.random_data import (
    random_detections,
    random_objects,
    record,
    saved,
)

CAT, DOG = 0, 1
NAMES = ["cat", "dog"]
SMALL, MEDIUM, LARGE = [0.0, 0, 20, 20], [30.0, 30, 80, 80], [100.0, 100, 300, 300]


def analysis_of(objects, detections, metric=VOC_2010, stability=None):
    records = [record(image_id, objects[image_id]) for image_id in detections]
    return analyze(saved(detections, stability=stability), records, NAMES, metric)


def test_curve():
    """Scores 0.9 (right), 0.8 (wrong), 0.7 (right); a third cat is not found."""
    objects = {"a": [(SMALL, CAT), (MEDIUM, CAT), (LARGE, CAT)]}
    detections = {"a": [(SMALL, CAT, 0.9), ([200.0, 0, 220, 20], CAT, 0.8), (MEDIUM, CAT, 0.7)]}
    cat, dog = analysis_of(objects, detections).curves
    assert (cat.name, cat.objects) == ("cat", 3)
    assert cat.ap == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    assert cat.precision[:34] == [1] * 34 and cat.precision[67:] == [0] * 34
    assert cat.precision[34:67] == pytest.approx([2 / 3] * 33)
    assert cat.scores[0] == cat.scores[33] == pytest.approx(0.9)
    assert cat.scores[34] == cat.scores[66] == pytest.approx(0.7) and cat.scores[67] is None
    assert np.isnan(dog.ap) and dog.precision == [] and dog.objects == 0


def test_confusion_matrix():
    objects = {"a": [(SMALL, CAT), (MEDIUM, DOG), (LARGE, DOG)]}
    detections = {
        "a": [
            (SMALL, CAT, 0.9),
            # a dog as cat, and again with a lower score: the second is left over
            (MEDIUM, CAT, 0.8),
            (MEDIUM, CAT, 0.7),
            # too low a score: the dog counts as not found
            (LARGE, DOG, 0.49),
            ([400.0, 0, 420, 20], DOG, 0.6),
        ]
    }
    matrix = analysis_of(objects, detections).confusion
    assert matrix == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]


def test_groups_by_size():
    objects = {"a": [(SMALL, CAT), (MEDIUM, CAT), (LARGE, CAT)]}
    # a small false positive with a high score counts in the group of small objects only
    detections = {"a": [([400.0, 0, 420, 20], CAT, 0.9), (SMALL, CAT, 0.8), (MEDIUM, CAT, 0.7)]}
    for metric in (VOC_2010, COCO):
        groups = analysis_of(objects, detections, metric).by_size
        assert [group.ap for group in groups[:3]] == pytest.approx([50, 100, 0])
        assert [group.objects for group in groups] == [1, 1, 1, 1, 1, 1]
        assert [group.ap for group in groups[3:]] == pytest.approx([50, 100, 0])
    assert groups[0].name == "small: below 32² px"


def test_groups_without_objects_have_no_ap():
    groups = analysis_of({"a": [(SMALL, CAT)]}, {"a": [(SMALL, CAT, 0.9)]}).by_size
    assert [g.objects for g in groups[:3]] == [1, 0, 0]
    assert groups[0].ap == pytest.approx(100) and np.isnan(groups[2].ap)


def test_groups_by_count():
    objects = {
        "one": [(SMALL, CAT)],
        "two": [(SMALL, CAT), (LARGE, CAT), (MEDIUM, DOG, 1)],
        "three": [(SMALL, CAT), (MEDIUM, CAT), (LARGE, DOG)],
        "none": [],
    }
    detections = {
        "one": [(SMALL, CAT, 0.9)],
        "two": [(SMALL, CAT, 0.9)],
        "three": [(LARGE, DOG, 0.9)],
        "none": [(SMALL, CAT, 0.99)],
    }
    groups = analysis_of(objects, detections).by_count
    assert [(g.name, g.objects, g.images) for g in groups] == [
        ("1 object", 1, 1),
        ("2 objects", 2, 1),
        ("3 to 4 objects", 3, 1),
    ]
    assert [g.ap for g in groups] == pytest.approx([100, 50, 50])


def test_calibration_before_and_after_stability():
    objects = {"a": [(SMALL, CAT), (MEDIUM, CAT)]}
    detections = {"a": [(SMALL, CAT, 0.8), (LARGE, CAT, 0.4), (MEDIUM, CAT, 0.9)]}
    stability = np.float32([0.8, 0.5, 0.9])
    calibration = analysis_of(objects, detections, stability=stability).calibration
    assert list(calibration) == ["without stability", "with stability"]
    before, after = calibration.values()
    # 1, 0.8 and 1 of a true, a false and a true positive
    assert before.error == pytest.approx(100 * 0.8 / 3, abs=1e-4)
    assert after.error == pytest.approx(100 * (0.2 + 0.4 + 0.1) / 3, abs=1e-4)
    assert [(b.count, b.precision) for b in before.bins] == [(1, 0), (2, 1)]
    assert list(analysis_of(objects, detections).calibration) == ["scores"]


def test_examples():
    objects = {"a": [(SMALL, CAT), (MEDIUM, CAT), (LARGE, DOG)], 7: [(LARGE, CAT)]}
    detections = {
        "a": [(MEDIUM, DOG, 0.9), (SMALL, CAT, 0.3), ([400.0, 0, 420, 20], DOG, 0.95)],
        7: [],
    }
    analysis = analysis_of(objects, detections)
    assert [(x.image_id, x.class_name, x.error, x.object_class) for x in analysis.confident] == [
        ("a", "dog", "background", None),
        ("a", "dog", "classification", "cat"),
    ]
    assert analysis.confident[1].iou == pytest.approx(1) and analysis.confident[1].box == MEDIUM
    misses = [(x.image_id, x.class_name, x.error, x.detected_class) for x in analysis.misses]
    assert misses == [
        ("a", "dog", "missed", None),
        (7, "cat", "missed", None),
        ("a", "cat", "classification", "dog"),
        ("a", "cat", "low score", "cat"),
    ]
    assert analysis.misses[3].score == pytest.approx(0.3)


def test_numbers_agree_with_each_other():
    rng = np.random.default_rng(2)
    objects = random_objects(rng, 60, classes=2)
    analysis = analysis_of(objects, random_detections(rng, objects, 2))
    matrix = np.array(analysis.confusion)
    assert matrix[:-1].sum() == analysis.objects == sum(g.objects for g in analysis.by_count)
    assert analysis.objects == sum(g.objects for g in analysis.by_size[:3])
    assert analysis.objects == sum(curve.objects for curve in analysis.curves)
    (calibration,) = analysis.calibration.values()
    assert sum(b.count for b in calibration.bins) == analysis.detections
    assert len(analysis.confident) == len(analysis.misses) == EXAMPLES
    scores = [x.score for x in analysis.confident]
    assert scores == sorted(scores, reverse=True)
    # JSON has no nan
    content = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
    assert content["tide"]["missed"]["count"] == analysis.tide["missed"].count
    assert content["calibration"]["scores"]["bins"][0].keys() == {
        "confidence",
        "precision",
        "count",
    }
