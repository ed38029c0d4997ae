import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.engine import resolve_config
from flowdet.experiments.uncertainty import (
    Confidences,
    are_right,
    confidence_tables,
    measure,
    uncertainty_figure,
    votes,
)
from tests.detection.tiny import batch, tiny_cfg, tiny_model


def test_metrics_by_hand():
    found = Confidences([0.9, 0.9, 0.1, 0.5], [True, True, False, False])
    # three bins: right as often as 1, 0, 0
    assert found.calibration_error() == pytest.approx((2 * 0.1 + 0.1 + 0.5) / 4)
    np.testing.assert_allclose(found.error_by_coverage(), [0, 0, 1 / 3, 1 / 2])
    metrics = found.metrics()
    assert metrics["AUROC"] == pytest.approx(100)
    assert metrics["AURC"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 4)
    turned = Confidences([0.1, 0.1, 0.9, 0.5], found.right)
    assert turned.metrics()["AUROC"] == pytest.approx(0)
    assert turned.metrics()["AURC"] > metrics["AURC"]


@pytest.mark.parametrize("right", [[], [False, False], [True]])
def test_nothing_to_compare_says_so(right):
    with pytest.raises(ValueError, match=f"{sum(right)} of {len(right)} detections are right"):
        Confidences([0.5] * len(right), right).metrics()


def test_a_confidence_of_one_has_a_bin():
    assert [list(inside) for inside in Confidences([1.0, 0.0], [True, False]).bins()] == [[1], [0]]


def test_what_is_right():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [20, 20, 30, 30.0]])
    found = Instances((99, 99), pred_boxes=Boxes(torch.cat([boxes, boxes[:1]])))
    found.pred_classes = torch.tensor([1, 1, 1, 0, 0])
    objects = [
        {"bbox": [0, 0, 10, 10], "category_id": 1, "difficult": 0},
        {"bbox": [20, 20, 30, 30], "category_id": 0, "difficult": 1},
    ]
    # found; found again; beside everything; difficult; of another class
    assert are_right(found, objects) == [True, False, False, None, False]
    assert are_right(found, []) == [False] * 5


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_votes_agree_if_there_is_no_noise(noise):
    model = tiny_model(NOISE_SCALE=noise).eval()
    with torch.no_grad():
        transport, found = votes(model, 2, model.encode(batch()[:1] * 2), draws=3)
        assert {name: len(x) for name, x in found.items()} == {"steps": 3, "noise": 4, "blocks": 3}
        z = transport.estimates[-1]
        assert torch.equal(found["noise"][0], z) and torch.equal(found["steps"][-1], z)
        tables = confidence_tables(model, transport, {"noise": found["noise"]}, draws=3)
    agree = torch.allclose(tables["agreement of noise"], tables["score"], atol=1e-5)
    assert agree == (noise == 0)
    assert (tables["agreement of noise"] <= tables["mean of noise"] + 1e-6).all()
    for lower in ("stability", "size"):
        assert (tables[lower] < tables["score"]).any()
        assert (tables[lower] <= tables["score"] + 1e-6).all()


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_rows_and_figure(voc_dataset, file):
    objects = {f"img{i}": [((1, 2 + i, 20, 30), "dog", int(i == 0))] for i in range(3)}
    name = voc_dataset(objects, name="unsure_pets")
    cfg = tiny_cfg(file=file, SCORE_THRESHOLD=0.0)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.BATCH_SIZE = 0, 2
    cfg = resolve_config(cfg, training=False)
    model = tiny_model(file=file, SCORE_THRESHOLD=0.0, NUM_CLASSES=3).eval()
    # one query of every image finds its dog
    model.heads.box.weight.data.zero_()
    model.heads.box_mlp[-2].weight.data.zero_()
    model.heads.box.bias.data = torch.logit(torch.tensor([10.5 / 64, 17.5 / 48, 19 / 64, 27 / 48]))
    rows, found = measure(cfg, model, draws=2)
    sources = ["steps"] if "backprop" in file else ["steps", "noise", "blocks"]
    assert list(found) == [
        "score",
        "stability",
        "size",
        *(f"{kind} of {source}" for source in sources for kind in ("mean", "agreement")),
    ]
    assert [r["metric"] for r in rows[:5]] == ["ECE", "AUROC", "AURC", "AP50", "AP75"]
    assert sum(found["score"].right) == 2
    left, right = uncertainty_figure(found).axes
    assert len(left.lines) == len(found) + 1 and len(right.lines) == len(found)
