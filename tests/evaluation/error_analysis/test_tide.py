"""The error types of TIDE and their dAP: small cases by hand, and properties on random data."""

import itertools

import numpy as np
import pytest

from flowdet.evaluation.error_analysis import analyze
from flowdet.evaluation.error_analysis.average_precision import COCO, VOC_2007, VOC_2010
from flowdet.evaluation.error_analysis.matching import match, objects_of, overlapping_pairs, ranked
from flowdet.evaluation.error_analysis.tide import (
    BACKGROUND_IOU,
    TYPES,
    find_errors,
    mended_precision,
)
from tests.evaluation.error_analysis.random_data import (
    digit_objects,
    random_detections,
    random_objects,
    record,
    saved,
)

CAT, DOG = 0, 1
BOX = [10.0, 10.0, 30.0, 30.0]
FAR = [60.0, 60.0, 80.0, 80.0]


def analysis_of(objects, detections, metric=VOC_2010, classes=("cat", "dog")):
    """The analysis of one image."""
    flag = "iscrowd" if metric == COCO else "difficult"
    return analyze(saved({"a": detections}), [record("a", objects, flag)], classes, metric)


def counts(analysis):
    return {name: error.count for name, error in analysis.tide.items() if error.count}


def shifted(iou):
    """`BOX` moved right until its IoU with `BOX` is `iou`."""
    x = 20 * (1 - iou) / (1 + iou)
    return [10 + x, 10, 30 + x, 30]


# one object, a cat at BOX, and one wrong detection; its type and the dAP of mending it
CASES = {
    "classification": ([(BOX, DOG, 0.9)], {"classification": (1, 100)}),
    "localisation": ([(shifted(0.4), CAT, 0.9)], {"localisation": (1, 100)}),
    # it is removed, so the object stays undetected: it is missed, too
    "both": ([(shifted(0.4), DOG, 0.9)], {"both": (1, 0), "missed": (1, 100)}),
    "background": ([(FAR, CAT, 0.9)], {"background": (1, 0), "missed": (1, 100)}),
    "touching": ([(shifted(0.05), CAT, 0.9)], {"background": (1, 0), "missed": (1, 100)}),
    # the duplicate has a lower score than the true positive, so it costs nothing
    "duplicate": ([(BOX, CAT, 0.9), (shifted(0.9), CAT, 0.8)], {"duplicate": (1, 0)}),
    "missed": ([], {"missed": (1, 100)}),
    "no error": ([(BOX, CAT, 0.9)], {}),
    # only the better one of two that would find the object is mended, the other is removed
    "two to mend": (
        [(shifted(0.4), CAT, 0.9), (shifted(0.3), CAT, 0.8)],
        {"localisation": (2, 100)},
    ),
    # the object is found without it: mending it removes it
    "wrong class of a found object": (
        [(BOX, CAT, 0.9), (BOX, DOG, 0.95)],
        {"classification": (1, 0)},
    ),
}


@pytest.mark.parametrize("metric", [VOC_2007, VOC_2010, COCO])
@pytest.mark.parametrize("case", CASES)
def test_one_object(case, metric):
    detections, expected = CASES[case]
    analysis = analysis_of([(BOX, CAT)], detections, metric)
    errors = {n: (e.count, pytest.approx(e.dap)) for n, e in analysis.tide.items() if e.count}
    assert errors == expected
    assert all(analysis.tide[name].dap == 0 for name in TYPES if name not in expected)
    found = any(box == BOX and c == CAT for box, c, _ in detections)
    assert analysis.ap50 == pytest.approx(100 * found)


def test_false_positives_above_a_true_positive_cost_precision():
    detections = [(FAR, CAT, 0.9), (BOX, CAT, 0.5)]
    analysis = analysis_of([(BOX, CAT)], detections)
    assert analysis.ap50 == pytest.approx(50) and counts(analysis) == {"background": 1}
    assert analysis.tide["background"].dap == pytest.approx(50)
    assert analysis.false_positives == pytest.approx(50) and analysis.false_negatives == 0


def test_two_classes_by_hand():
    """Cats: one of two found. Dogs: one found, after a cat that was taken for a dog."""
    cat, dog = [40.0, 10.0, 60.0, 30.0], [10.0, 60.0, 30.0, 80.0]
    objects = [(BOX, CAT), (cat, CAT), (dog, DOG)]
    detections = [(BOX, CAT, 0.9), (cat, DOG, 0.8), (dog, DOG, 0.7)]
    analysis = analysis_of(objects, detections)
    assert analysis.ap50 == pytest.approx((50 + 50) / 2)
    assert counts(analysis) == {"classification": 1}
    # mended, both cats and the dog are found without a false positive
    assert analysis.tide["classification"].dap == pytest.approx(50)
    assert analysis.false_positives == pytest.approx((50 + 100) / 2 - 50)
    assert analysis.false_negatives == pytest.approx((100 + 50) / 2 - 50)
    assert analysis.confusion == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_finding_all_objects_when_none_is_found():
    for detections in ([], [(FAR, CAT, 0.9)]):
        assert analysis_of([(BOX, CAT)], detections).false_negatives == 100
    # without objects there is nothing to find
    assert np.isnan(analysis_of([], []).false_negatives)


def test_difficult_objects_and_their_detections_are_no_errors():
    analysis = analysis_of([(BOX, CAT, 1), (FAR, CAT)], [(BOX, CAT, 0.9), (BOX, CAT, 0.8)])
    assert counts(analysis) == {"missed": 1}
    assert (analysis.objects, analysis.detections) == (1, 0)
    assert analysis.confusion == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_detections_in_a_crowd_are_no_errors():
    """All of the detection is in the crowd, but their IoU is low."""
    crowd = [0.0, 0.0, 90.0, 90.0]
    analysis = analysis_of([(crowd, CAT, 1), (FAR, DOG)], [(BOX, CAT, 0.9), (BOX, DOG, 0.8)], COCO)
    assert counts(analysis) == {"background": 1, "missed": 1}


def test_voc_and_coco_differ_in_the_second_object():
    """In VOC a detection matches its best object only; in COCO the best that is free."""
    objects = [([0, 0, 20, 20], CAT), ([0, 0, 20, 24], CAT)]
    detections = [([0, 0, 20, 20], CAT, 0.9), ([0, 0, 20, 20.5], CAT, 0.8)]
    assert counts(analysis_of(objects, detections, VOC_2010)) == {"duplicate": 1, "missed": 1}
    assert counts(analysis_of(objects, detections, COCO)) == {}


def test_no_objects_at_all():
    analysis = analysis_of([], [(BOX, CAT, 0.9)])
    assert np.isnan(analysis.ap50) and counts(analysis) == {"background": 1}
    assert (
        analysis.to_dict()["ap50"] is None and analysis.to_dict()["tide"]["missed"]["dap"] is None
    )


@pytest.mark.parametrize("classes, make", [(3, random_objects), (10, digit_objects)])
@pytest.mark.parametrize("metric", [VOC_2007, VOC_2010, COCO])
def test_all_mended_gives_100(metric, make, classes):
    """As TIDE's paper says: mending all errors gives an AP of 100, and every false positive and
    every object without a match has exactly one error or target."""
    rng = np.random.default_rng(1)
    objects = make(rng)
    flag = "iscrowd" if metric == COCO else "difficult"
    detections = ranked(saved(random_detections(rng, objects, classes)), metric == COCO)
    found = objects_of([record(i, o, flag) for i, o in objects.items()])
    pairs = overlapping_pairs(detections, found, BACKGROUND_IOU)
    same = detections.classes[pairs.detections] == found.classes[pairs.objects]
    count = len(detections.scores)
    matches = match(pairs.select(same), count, found.ignored, found.crowd, metric == COCO)
    errors = find_errors(pairs, detections.classes, found, matches)

    def mended(chosen):
        return mended_precision(chosen, errors, detections.classes, found, matches, classes, metric)

    assert mended(range(len(TYPES))) == pytest.approx(100)
    assert all(errors.count(i) for i in range(len(TYPES)))
    false_positives = ~matches.correct & ~matches.ignored
    assert ((errors.types >= 0) == false_positives).all()
    undetected = (~found.ignored).sum() - matches.correct.sum()
    assert undetected == errors.missed.sum() + errors.mendable.sum()
    # with area under the curve, mending more never lowers the AP
    if metric == VOC_2010:
        sets = [set(s) for n in range(3) for s in itertools.combinations(range(len(TYPES)), n)]
        for chosen, more in itertools.product(sets, sets):
            assert mended(chosen) <= mended(chosen | more) + 1e-9
