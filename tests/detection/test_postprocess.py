"""Decoded queries to detections."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from torchvision.ops import box_convert

from flowdet.detection import postprocess
from flowdet.detection.postprocess import PostProcessor

SIZE = (100, 200)


def detect(queries, size=SIZE, output_size=SIZE, score=0.05, nms=0.5, most=100):
    """Queries are (probabilities of the classes and background, absolute xyxy box)."""
    logits, boxes = decoded(queries, size)
    (result,) = PostProcessor(score, nms, most)(logits[None], boxes[None], size, [output_size])
    return result


def decoded(queries, size=SIZE):
    logits = torch.tensor([p for p, _ in queries]).log()
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    corners = torch.tensor([box for _, box in queries], dtype=torch.float32)
    return logits, box_convert(corners / scale, "xyxy", "cxcywh")


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
def test_predictions_that_are_not_finite_are_dropped_with_a_warning(broken, monkeypatch):
    warnings = []
    monkeypatch.setattr(postprocess, "log_first_n", lambda _, text, **__: warnings.append(text))
    logits, boxes = torch.zeros(3, 2), torch.full((3, 4), 0.5)
    boxes[0, 1] = broken
    logits[1, 0] = broken
    (result,) = PostProcessor(0.05, 0.5, 100)(logits[None], boxes[None], SIZE, [SIZE])
    assert len(result) == 1 and torch.isfinite(result.pred_boxes.tensor).all()
    assert [text.split(";")[0] for text in warnings] == [
        "the model predicts boxes or scores that are NaN or infinite"
    ]


def test_no_detection():
    result = detect([([0.01, 0.99], (0, 0, 9, 9))])
    assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("most", [100, 3, 0, -1])
def test_a_batch_is_each_image_with_the_functions_of_detectron2(most):
    """Also with an image without detections, with broken predictions, and with empty boxes."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 30, 4, generator=generator)
    boxes = torch.rand(5, 30, 4, generator=generator)
    logits[2, :, -1] = 50
    logits[3, 4, 0] = float("nan")
    boxes[3, 7, 2] = float("inf")
    # outside of the image
    boxes[4, :5, 0] = 3.0
    factors = torch.rand(5, 30, generator=generator)
    output_sizes = [SIZE, (50, 400), (30, 30), (200, 300), SIZE]
    postprocess = PostProcessor(0.05, 0.4, most)
    results = postprocess(logits, boxes, SIZE, output_sizes, factors)
    for i, (result, size) in enumerate(zip(results, output_sizes, strict=True)):
        decoded = postprocess.decode(logits[i], boxes[i], SIZE, factors[i])
        expected, queries = fast_rcnn_inference_single_image(*decoded, SIZE, 0.05, 0.4, most)
        # detectron2 counts without the queries that are not finite
        finite = torch.stack([x.isfinite().all(dim=1) for x in decoded]).all(dim=0)
        queries = finite.nonzero()[queries, 0]
        expected.pred_queries, expected.stability = queries, factors[i][queries]
        expected = detector_postprocess(expected, *size)
        assert result.image_size == size and len(result) == len(expected)
        assert result.get_fields().keys() == expected.get_fields().keys()
        torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor)
        for name in ("scores", "pred_classes", "pred_queries", "stability"):
            torch.testing.assert_close(result.get(name), expected.get(name))
    counts = [len(x) for x in results]
    assert counts[2] == 0 and (max(counts) > 10) == (most not in (3, 0))


@pytest.mark.parametrize("key", ["SCORE_THRESHOLD", "NMS_THRESHOLD"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_thresholds_are_checked(key, value):
    thresholds = {"SCORE_THRESHOLD": 0.5, "NMS_THRESHOLD": 0.5} | {key: value}
    with pytest.raises(ValueError, match=f"{key} must be in"):
        PostProcessor(*thresholds.values(), 100)
