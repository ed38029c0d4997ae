"""Which detections of an image count as right."""

import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from flowdet.evaluation.matching import ground_truth_instances, match_detections


def objects(*items):
    """(class, xyxy box, difficult) each."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "difficult": difficult}
        for c, box, difficult in items
    ]
    return ground_truth_instances({"height": 100, "width": 100, "annotations": annotations})


def detections(*items):
    """(class, xyxy box, score) each."""
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([box for _, box, _ in items]).reshape(-1, 4).float())
    found.scores = torch.tensor([score for *_, score in items])
    found.pred_classes = torch.tensor([c for c, *_ in items], dtype=torch.long)
    return found


BOX, LARGER, ELSEWHERE = [10, 10, 30, 30], [10, 10, 30, 35], [60, 60, 90, 90]


def test_hits_misses_and_false_alarms():
    truth = objects((0, BOX, 0), (1, ELSEWHERE, 0))
    # the best one is not the first; the object goes to it alone
    found = detections((0, BOX, 0.6), (0, LARGER, 0.9), (2, ELSEWHERE, 0.8))
    matches = match_detections(truth, found)
    assert matches.true_positives == [(1, 0, pytest.approx(0.8))]
    assert matches.false_positives == [2, 0]
    assert matches.false_negatives == [1]
    # one of three detections, one of two objects
    assert matches.f1 == pytest.approx(2 / (1 / (1 / 3) + 1 / (1 / 2)))
    assert matches.mean_iou == pytest.approx(0.8)


def test_unsure_detections_do_not_count():
    matches = match_detections(objects((0, BOX, 0)), detections((0, BOX, 0.4)))
    assert (matches.true_positives, matches.false_positives, matches.false_negatives) == (
        [],
        [],
        [0],
    )
    assert matches.f1 == matches.mean_iou == 0


def test_difficult_objects_neither_help_nor_hurt():
    truth = objects((0, BOX, 1), (0, ELSEWHERE, 1))
    matches = match_detections(truth, detections((0, BOX, 0.9), (0, LARGER, 0.8)))
    assert (matches.true_positives, matches.false_positives, matches.false_negatives) == (
        [],
        [],
        [],
    )


@pytest.mark.parametrize(
    "truth, found, f1",
    [
        ([], [], 1.0),
        ([], [(0, BOX, 0.9)], 0.0),
        ([(0, BOX, 0)], [], 0.0),
        ([(0, BOX, 0)], [(0, BOX, 0.9)], 1.0),
    ],
)
def test_f1_of_empty_sides(truth, found, f1):
    assert match_detections(objects(*truth), detections(*found)).f1 == f1
