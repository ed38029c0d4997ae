import pytest
import torch

from flowdet.engine import resolve_config
from flowdet.experiments.leak import (
    METRICS,
    anchor_losses,
    leak_figure,
    leak_rows,
    with_interpolated_states,
)
from tests.detection.tiny import batch, tiny_cfg, tiny_model
from tests.flowcls.tiny import images
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg
from tests.flowcls.tiny import tiny_model as tiny_classifier

STATES = {"TRAINING_STATES": "interpolated", "LEARN_AT_START": False}


@pytest.mark.parametrize("make", [tiny_model, tiny_classifier])
def test_flow_loss_does_not_contribute(make):
    inputs = batch() if make is tiny_model else images()
    values = {}
    for flow_weight in (0.0, 5.0):
        model = make(**STATES, FLOW_WEIGHT=flow_weight).train()
        torch.manual_seed(0)
        values[flow_weight] = anchor_losses(model, inputs, 0.5)
    assert values[0.0] == pytest.approx(values[5.0], rel=1e-5)
    loss, other_loss, gradient = values[0.0]
    assert loss > 0 and gradient > 0 and abs(other_loss - loss) > 1e-3


def test_both_losses_have_their_own_matching():
    model = tiny_model(**STATES, MATCHING="shared").train()
    calls, match = [], model.matcher.forward
    model.matcher.forward = lambda *args: calls.append(args) or match(*args)
    anchor_losses(model, batch(), 0.5)
    assert len(calls) == 2


def test_blocks_that_ignore_the_features_have_equal_losses_and_no_gradient():
    model = tiny_classifier(**STATES).train()
    for block in model.flow.blocks:
        # the features come before the state
        block.merge.weight.data[:, : -model.embedding.dim] = 0
    loss, other_loss, gradient = anchor_losses(model, images(), 0.5)
    assert loss == pytest.approx(other_loss, rel=1e-5) and gradient == 0


def test_rows_and_figure_of_a_classifier():
    cfg = tiny_classifier_cfg(NUM_CLASSES=0)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 4, 3
    cfg = with_interpolated_states(resolve_config(cfg))
    assert cfg.MODEL.FLOW_CLS.TRAINING_STATES == "interpolated"
    rows = list(leak_rows(cfg, 2, [1, 0], [0.0, 0.5]))
    assert [(r["iterations"], r["t"], r["metric"]) for r in rows] == [
        (iteration, t, metric) for iteration in (0, 1) for t in (0.0, 0.5) for metric in METRICS
    ]
    assert all(row["mean"] > 0 and row["n"] == 2 for row in rows)
    left, right = leak_figure(rows).axes
    assert len(left.lines) == 4 and len(right.lines) == 2


def test_config_of_a_detector_with_interpolated_states():
    cfg = with_interpolated_states(tiny_cfg(LEARN_AT_START=True, SCHEDULE="alternate"))
    node = cfg.MODEL.FLOW_DET
    assert (node.TRAINING_STATES, node.LEARN_AT_START, node.SCHEDULE) == (
        *("interpolated", False),
        "joint",
    )
