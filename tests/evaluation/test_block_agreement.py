"""How far the blocks disagree: by hand, and of a model."""

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


def test_spread_by_hand():
    # both as the first block has it
    own = torch.tensor([[10.0, 20, 50, 60]] * 2)
    instances = Instances((99, 99), pred_boxes=Boxes(own))
    boxes = torch.tensor(
        [
            # the left sides differ by 8, the others agree
            [[10.0, 20, 50, 60], [18.0, 20, 50, 60]],
            # moved by 4 as a whole
            [[10.0, 20, 50, 60], [14.0, 24, 54, 64]],
        ]
    )
    add_block_agreement(instances, boxes, torch.tensor([[0.5, 0.9], [0.7, 0.7]]))
    assert instances.box_spread.tolist() == pytest.approx([1, 2])
    # IoU 32/40, and 36 x 36 of two boxes of 40 x 40
    moved = 36**2 / (2 * 40**2 - 36**2)
    assert instances.agreement.tolist() == pytest.approx([0.7 * 0.9, 0.7 * (1 + moved) / 2])
    assert torch.equal(instances.block_boxes, boxes)


def test_every_detection_gets_the_votes_of_its_own_query():
    model = tiny_model(INFERENCE_MODE="single_step").eval()
    inputs = [*batch(), record(size=(48, 64), height=96, width=128)]
    together = model.inference(inputs, analyses=[block_agreement])
    for x, result in zip(inputs, together, strict=True):
        found = result["instances"]
        assert len(found) > 0 and list(result) == ["instances"]
        tokens = model.encode([x])
        for k in range(3):
            z = solve(model.flow, model.initial_noise(1), tokens, "single_step", block=k).z_1
            logits, boxes = model.heads(z[0])
            height, width = found.image_size
            scale = torch.tensor([width, height])
            centre = boxes[found.pred_queries, :2] * scale
            size = boxes[found.pred_queries, 2:] * scale
            corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
            limit = torch.cat([scale, scale]).float()
            expected = corners.clamp(min=0).minimum(limit)
            torch.testing.assert_close(found.block_boxes[:, k], expected, atol=1e-2, rtol=0)
            scores = logits.softmax(-1)[found.pred_queries, found.pred_classes]
            torch.testing.assert_close(found.block_scores[:, k], scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "keys", [{}, {"INFERENCE_MODE": "single_step", "SINGLE_STEP_BLOCK": 1}, {"NUM_STEPS": 5}]
)
def test_the_block_of_the_last_step_says_what_was_found(keys):
    model = tiny_model(**keys).eval()
    found = model.inference(batch(), analyses=[block_agreement])[0]["instances"]
    block = 1 if keys.get("SINGLE_STEP_BLOCK") else 2
    own = found.block_boxes[:, block]
    torch.testing.assert_close(own, found.pred_boxes.tensor, atol=1e-2, rtol=0)
    torch.testing.assert_close(found.block_scores[:, block], found.scores, atol=1e-4, rtol=0)
    assert (found.box_spread > 0).all()


def test_equal_blocks_agree():
    model = tiny_model().eval()
    for block in model.flow.blocks[1:]:
        block.load_state_dict(model.flow.blocks[0].state_dict())
    found = model.inference(batch(), analyses=[block_agreement])[0]["instances"]
    assert found.box_spread.max() < 1e-4
    torch.testing.assert_close(found.agreement, found.scores, atol=1e-4, rtol=0)


def test_nobody_to_disagree():
    with pytest.raises(ValueError, match="a BackpropDetector has no blocks"):
        check_has_blocks(tiny_model(file="digits_backprop.yaml"))
    with pytest.raises(ValueError, match="one block"):
        check_has_blocks(tiny_model(NUM_BLOCKS=1))
    with pytest.raises(ValueError, match="a Linear has no blocks"):
        check_has_blocks(torch.nn.Linear(1, 1))
