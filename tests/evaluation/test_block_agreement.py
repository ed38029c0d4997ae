"""Agreement of the blocks: measures computed by hand, and the blocks of a model."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.evaluation.block_agreement import (
    add_block_agreement,
    block_agreement,
    check_has_blocks,
)
from flowdet.flow import solve
from tests.detection.tiny import batch, record, tiny_model


def test_spread_and_agreement_by_hand():
    # both detections have the box of the first block
    detected = torch.tensor([[10.0, 20, 50, 60]] * 2)
    instances = Instances((99, 99), pred_boxes=Boxes(detected))
    boxes = torch.tensor(
        [
            # the left sides differ by 8 pixels
            [[10.0, 20, 50, 60], [18.0, 20, 50, 60]],
            # the whole box is moved by 4 pixels
            [[10.0, 20, 50, 60], [14.0, 24, 54, 64]],
        ]
    )
    add_block_agreement(instances, boxes, torch.tensor([[0.5, 0.9], [0.7, 0.7]]))
    assert instances.box_spread.tolist() == pytest.approx([1, 2])
    # the IoUs with the second block: 32/40, and an intersection of 36x36 of two boxes of 40x40
    moved = 36**2 / (2 * 40**2 - 36**2)
    assert instances.agreement.tolist() == pytest.approx([0.7 * 0.9, 0.7 * (1 + moved) / 2])
    assert torch.equal(instances.block_boxes, boxes)


def test_every_detection_gets_the_predictions_for_its_query():
    model = tiny_model(INFERENCE_MODE="single_step").eval()
    inputs = [*batch(), record(size=(48, 64), height=96, width=128)]
    results = model.inference(inputs, analyses=[block_agreement])
    for x, result in zip(inputs, results, strict=True):
        detections = result["instances"]
        assert len(detections) > 0 and list(result) == ["instances"]
        tokens = model.encode([x])
        for k in range(3):
            z = solve(model.flow, model.initial_noise(1), tokens, "single_step", block=k).z_1
            logits, boxes = model.heads(z[0])
            height, width = detections.image_size
            scale = torch.tensor([width, height])
            center = boxes[detections.pred_queries, :2] * scale
            size = boxes[detections.pred_queries, 2:] * scale
            corners = torch.cat([center - size / 2, center + size / 2], dim=1)
            limit = torch.cat([scale, scale]).float()
            expected = corners.clamp(min=0).minimum(limit)
            torch.testing.assert_close(detections.block_boxes[:, k], expected, atol=1e-2, rtol=0)
            scores = logits.softmax(-1)[detections.pred_queries, detections.pred_classes]
            torch.testing.assert_close(detections.block_scores[:, k], scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "keys", [{}, {"INFERENCE_MODE": "single_step", "SINGLE_STEP_BLOCK": 1}, {"NUM_STEPS": 5}]
)
def test_the_block_of_the_last_step_predicts_the_detections(keys):
    model = tiny_model(**keys).eval()
    detections = model.inference(batch(), analyses=[block_agreement])[0]["instances"]
    assert len(detections) > 0
    block = 1 if keys.get("SINGLE_STEP_BLOCK") else 2
    boxes, scores = detections.block_boxes[:, block], detections.block_scores[:, block]
    torch.testing.assert_close(boxes, detections.pred_boxes.tensor, atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, detections.scores, atol=1e-4, rtol=0)
    assert (detections.box_spread > 0).all()


def test_equal_blocks_agree():
    model = tiny_model().eval()
    for block in model.flow.blocks[1:]:
        block.load_state_dict(model.flow.blocks[0].state_dict())
    detections = model.inference(batch(), analyses=[block_agreement])[0]["instances"]
    assert detections.box_spread.max() < 1e-2
    torch.testing.assert_close(detections.agreement, detections.scores, atol=1e-4, rtol=0)


def test_models_without_several_blocks():
    with pytest.raises(ValueError, match="a BackpropDetector has no independent blocks"):
        check_has_blocks(tiny_model(file="digits_backprop.yaml"))
    with pytest.raises(ValueError, match="at least two blocks, the model has one"):
        check_has_blocks(tiny_model(NUM_BLOCKS=1))
    with pytest.raises(ValueError, match="a Linear has no independent blocks"):
        check_has_blocks(torch.nn.Linear(1, 1))
