"""Matching of detections with objects, by hand."""

import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from flowdet.evaluation.matching import DetectionMatches, ground_truth_instances, match_detections


def objects(*items):
    """Ground truth; items are (class, xyxy box, difficult)."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "difficult": difficult}
        for c, box, difficult in items
    ]
    return ground_truth_instances({"height": 100, "width": 100, "annotations": annotations})


def detections(*items):
    """Detections; items are (class, xyxy box, score)."""
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor([box for _, box, _ in items]).reshape(-1, 4).float())
    instances.scores = torch.tensor([score for *_, score in items])
    instances.pred_classes = torch.tensor([c for c, *_ in items], dtype=torch.long)
    return instances


BOX, LARGER, ELSEWHERE = [10, 10, 30, 30], [10, 10, 30, 35], [60, 60, 90, 90]


def test_true_and_false_positives_and_false_negatives():
    truth = objects((0, BOX, 0), (1, ELSEWHERE, 0))
    # the detection with the best score is not the first; the object is matched with it alone
    predicted = detections((0, BOX, 0.6), (0, LARGER, 0.9), (2, ELSEWHERE, 0.8))
    matches = match_detections(truth, predicted)
    assert matches.true_positives == [(1, 0, pytest.approx(0.8))]
    assert matches.false_positives == [2, 0]
    assert matches.false_negatives == [1]
    # precision 1/3, recall 1/2
    assert matches.f1 == pytest.approx(2 / (1 / (1 / 3) + 1 / (1 / 2)))
    assert matches.mean_iou == pytest.approx(0.8)


def test_detections_with_low_scores_are_left_out():
    matches = match_detections(objects((0, BOX, 0)), detections((0, BOX, 0.4)))
    assert matches == DetectionMatches([], [], [0])
    assert matches.f1 == matches.mean_iou == 0


def test_difficult_objects_are_ignored():
    truth = objects((0, BOX, 1), (0, ELSEWHERE, 1))
    matches = match_detections(truth, detections((0, BOX, 0.9), (0, LARGER, 0.8)))
    assert matches == DetectionMatches([], [], [])


@pytest.mark.parametrize(
    "truth, predicted, f1",
    [
        ([], [], 1.0),
        ([], [(0, BOX, 0.9)], 0.0),
        ([(0, BOX, 0)], [], 0.0),
        ([(0, BOX, 0)], [(0, BOX, 0.9)], 1.0),
    ],
)
def test_f1_without_objects_or_detections(truth, predicted, f1):
    assert match_detections(objects(*truth), detections(*predicted)).f1 == f1
