import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.engine import resolve_config
from flowdet.experiments.uncertainty import (
    Confidences,
    confidence_measures,
    estimates_by_source,
    measure,
    true_positive_flags,
    uncertainty_figure,
)
from tests.detection.tiny import batch, tiny_cfg, tiny_model


def test_metrics_by_hand():
    confidences = Confidences([0.9, 0.9, 0.1, 0.5], [True, True, False, False])
    # three bins, with precision 1, 0 and 0
    assert confidences.calibration_error() == pytest.approx((2 * 0.1 + 0.1 + 0.5) / 4)
    np.testing.assert_allclose(confidences.error_by_coverage(), [0, 0, 1 / 3, 1 / 2])
    metrics = confidences.metrics()
    assert metrics["AUROC"] == pytest.approx(100)
    assert metrics["AURC"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 4)
    inverted = Confidences([0.1, 0.1, 0.9, 0.5], confidences.correct)
    assert inverted.metrics()["AUROC"] == pytest.approx(0)
    assert inverted.metrics()["AURC"] > metrics["AURC"]


@pytest.mark.parametrize("correct", [[], [False, False], [True]])
def test_metrics_need_true_and_false_positives(correct):
    message = f"{sum(correct)} of {len(correct)} detections are true positives"
    with pytest.raises(ValueError, match=message):
        Confidences([0.5] * len(correct), correct).metrics()


def test_confidence_of_one_has_a_bin():
    bins = Confidences([1.0, 0.0], [True, False]).bins()
    assert bins == [(0, 0, 1), (1, 1, 1)]


def test_true_positive_flags():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [20, 20, 30, 30.0]])
    detections = Instances((99, 99), pred_boxes=Boxes(torch.cat([boxes, boxes[:1]])))
    detections.pred_classes = torch.tensor([1, 1, 1, 0, 0])
    objects = [
        {"bbox": [0, 0, 10, 10], "category_id": 1, "difficult": 0},
        {"bbox": [20, 20, 30, 30], "category_id": 0, "difficult": 1},
    ]
    # correct; object already matched; no overlap; difficult object; wrong class
    assert true_positive_flags(detections, objects) == [True, False, False, None, False]
    assert true_positive_flags(detections, []) == [False] * 5


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_estimates_agree_without_noise(noise):
    model = tiny_model(NOISE_SCALE=noise).eval()
    with torch.no_grad():
        tokens = model.encode(batch()[:1] * 2)
        refinement, sources = estimates_by_source(model, 2, tokens, samples=3)
        counts = {name: len(estimates) for name, estimates in sources.items()}
        assert counts == {"steps": 3, "noise": 4, "blocks": 3}
        z = refinement.z_1
        assert torch.equal(sources["noise"][0], z) and torch.equal(sources["steps"][-1], z)
        measures = confidence_measures(model, refinement, {"noise": sources["noise"]}, samples=3)
    scores, agreement = measures["score"], measures["agreement of noise"]
    assert torch.allclose(agreement, scores, atol=1e-4, rtol=0) == (noise == 0)
    assert (agreement <= measures["mean of noise"] + 1e-4).all()
    for name in ("stability", "size"):
        assert (measures[name] < scores - 1e-4).any()
        assert (measures[name] <= scores + 1e-4).all()


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_rows_and_figure(voc_dataset, file):
    objects = {f"img{i}": [((1, 2 + i, 20, 30), "dog", int(i == 0))] for i in range(3)}
    name = voc_dataset(objects, name="uncertain_pets")
    cfg = tiny_cfg(file=file, SCORE_THRESHOLD=0.0)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.BATCH_SIZE = 0, 2
    cfg = resolve_config(cfg, training=False)
    model = tiny_model(file=file, SCORE_THRESHOLD=0.0, NUM_CLASSES=3).eval()
    # all queries predict the box of the dog
    model.heads.box.weight.data.zero_()
    model.heads.box_mlp[-2].weight.data.zero_()
    model.heads.box.bias.data = torch.logit(torch.tensor([10.5 / 64, 17.5 / 48, 19 / 64, 27 / 48]))
    rows, by_measure = measure(cfg, model, samples=2)
    sources = ["steps"] if "backprop" in file else ["steps", "noise", "blocks"]
    assert list(by_measure) == [
        "score",
        "stability",
        "size",
        *(f"{kind} of {source}" for source in sources for kind in ("mean", "agreement")),
    ]
    assert [r["metric"] for r in rows[:5]] == ["ECE", "AUROC", "AURC", "AP50", "AP75"]
    # one true positive per image; the dog of the first image is difficult
    assert sum(by_measure["score"].correct) == 2
    left, right = uncertainty_figure(by_measure).axes
    assert len(left.lines) == len(by_measure) + 1 and len(right.lines) == len(by_measure)
