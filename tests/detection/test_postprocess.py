"""Decoded queries to detections."""

import pytest
import torch
from torchvision.ops import box_convert

from flowdet.detection.postprocess import PostProcessor

SIZE = (100, 200)


def detect(queries, size=SIZE, output_size=SIZE, score=0.05, nms=0.5, most=100):
    """Queries are (probabilities of the classes and background, absolute xyxy box)."""
    logits = torch.tensor([p for p, _ in queries]).log()
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    corners = torch.tensor([box for _, box in queries], dtype=torch.float32)
    boxes = box_convert(corners / scale, "xyxy", "cxcywh")
    return PostProcessor(score, nms, most)(logits, boxes, size, output_size)


def test_scores_are_probabilities_best_first():
    result = detect([([0.2, 0.1, 0.7], (0, 0, 9, 9)), ([0.02, 0.9, 0.08], (50, 50, 70, 80))])
    assert result.pred_classes.tolist() == [1, 0, 1]
    assert result.scores.tolist() == pytest.approx([0.9, 0.2, 0.1])
    torch.testing.assert_close(result.pred_boxes.tensor[0], torch.tensor([50.0, 50, 70, 80]))


def test_detections_at_the_threshold_or_below_are_dropped():
    queries = [([0.25, 0.75], (0, 0, 9, 9)), ([0.5, 0.5], (20, 20, 30, 30))]
    assert detect(queries, score=0.3).scores.tolist() == pytest.approx([0.5])
    assert len(detect(queries, score=0.5001)) == 0


def test_suppression_is_class_wise():
    # IoU of the first two is 0.8
    overlapping = [([0.6, 0.01, 0.39], (0, 0, 100, 10)), ([0.5, 0.02, 0.48], (0, 0, 80, 10))]
    other_class = [([0.01, 0.5, 0.49], (0, 0, 100, 10))]
    apart = [([0.4, 0.01, 0.59], (0, 50, 10, 60))]
    result = detect(overlapping + other_class + apart)
    assert list(zip(result.pred_classes.tolist(), result.scores.tolist())) == [
        (0, pytest.approx(0.6)),
        (1, pytest.approx(0.5)),
        (0, pytest.approx(0.4)),
    ]
    assert len(detect(overlapping + other_class + apart, nms=0.85)) == 4
    assert len(detect(overlapping + other_class + apart, nms=1.0)) == 4


def test_boxes_are_scaled_to_the_original_image_and_clipped():
    result = detect([([0.9, 0.1], (20, 10, 60, 30))], output_size=(50, 400))
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[40.0, 5, 120, 15]]))
    assert result.image_size == (50, 400)
    result = detect([([0.9, 0.1], (-50, 90, 300, 120))], output_size=(200, 400))
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[0.0, 180, 400, 200]]))


def test_only_the_best_detections_are_kept():
    queries = [([0.1 * i, 1 - 0.1 * i], (20 * i, 0, 20 * i + 9, 9)) for i in range(1, 6)]
    assert detect(queries, most=2).scores.tolist() == pytest.approx([0.5, 0.4])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_dropped(broken):
    logits, boxes = torch.zeros(3, 2), torch.full((3, 4), 0.5)
    boxes[0, 1] = broken
    logits[1, 0] = broken
    result = PostProcessor(0.05, 0.5, 100)(logits, boxes, SIZE, SIZE)
    assert len(result) == 1 and torch.isfinite(result.pred_boxes.tensor).all()


def test_no_detection():
    result = detect([([0.01, 0.99], (0, 0, 9, 9))])
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("key", ["SCORE_THRESHOLD", "NMS_THRESHOLD"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_thresholds_are_checked(key, value):
    thresholds = {"SCORE_THRESHOLD": 0.5, "NMS_THRESHOLD": 0.5} | {key: value}
    with pytest.raises(ValueError, match=f"{key} must be in"):
        PostProcessor(*thresholds.values(), 100)
