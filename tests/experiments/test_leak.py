import pytest
import torch

from flowdet.engine import resolve_config
from flowdet.experiments.leak import METRICS, anchor_losses, interpolated, leak_figure, leak_rows
from tests.detection.tiny import batch, tiny_cfg, tiny_model
from tests.flowcls.tiny import images
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg
from tests.flowcls.tiny import tiny_model as tiny_classifier

STATES = {"TRAINING_STATES": "interpolated", "LEARN_AT_START": False}


@pytest.mark.parametrize("make", [tiny_model, tiny_classifier])
def test_the_gradient_is_that_of_the_anchor_loss_alone(make):
    inputs = batch() if make is tiny_model else images()
    found = {}
    for flow_weight in (0.0, 5.0):
        model = make(**STATES, FLOW_WEIGHT=flow_weight).train()
        torch.manual_seed(0)
        found[flow_weight] = anchor_losses(model, inputs, 0.5)
    assert found[0.0] == found[5.0]
    own, other, gradient = found[0.0]
    assert own > 0 and gradient > 0 and other != own


def test_the_features_of_another_image_are_matched_by_themselves():
    model = tiny_model(**STATES, MATCHING="carried").train()
    calls, match = [], model.matcher.forward
    model.matcher.forward = lambda *args: calls.append(args) or match(*args)
    anchor_losses(model, batch(), 0.5)
    assert len(calls) == 2


def test_without_looking_at_the_image_it_does_not_matter_which():
    model = tiny_classifier(**STATES).train()
    for block in model.flow.blocks:
        # the features come before the state
        block.merge.weight.data[:, : -model.embedding.dim] = 0
    own, other, gradient = anchor_losses(model, images(), 0.5)
    assert own == other and gradient == 0


def test_rows_of_a_classifier_and_their_figure():
    cfg = tiny_classifier_cfg(NUM_CLASSES=0)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 4, 3
    cfg = interpolated(resolve_config(cfg))
    assert cfg.MODEL.FLOW_CLS.TRAINING_STATES == "interpolated"
    rows = list(leak_rows(cfg, 2, [1, 0], [0.0, 0.5]))
    assert [(r["iterations"], r["t"], r["metric"]) for r in rows] == [
        (iteration, t, metric) for iteration in (0, 1) for t in (0.0, 0.5) for metric in METRICS
    ]
    assert all(row["mean"] > 0 and row["n"] == 2 for row in rows)
    left, right = leak_figure(rows).axes
    assert len(left.lines) == 4 and len(right.lines) == 2


def test_a_detector_s_config_becomes_interpolated():
    cfg = interpolated(tiny_cfg(LEARN_AT_START=True, SCHEDULE="alternate"))
    node = cfg.MODEL.FLOW_DET
    assert (node.TRAINING_STATES, node.LEARN_AT_START, node.SCHEDULE) == (
        *("interpolated", False),
        "joint",
    )
