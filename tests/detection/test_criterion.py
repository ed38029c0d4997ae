import math

import pytest
import torch

from flowdet.detection.criterion import SetCriterion, block_weights
from tests.detection.tiny import random_predictions, random_targets, targets_of

BOX_A, BOX_B = (0.3, 0.3, 0.2, 0.2), (0.7, 0.7, 0.4, 0.4)


def evaluate(criterion, logits, boxes, targets, assigned):
    normalizer = criterion.normalizer(targets, logits.shape[1])
    return criterion(logits, boxes, targets, assigned, normalizer)


def test_a_perfect_prediction_costs_nothing():
    targets = targets_of([(0, BOX_A), (2, BOX_B)])
    assigned = torch.tensor([[1, -1, 0]])
    logits = 50 * torch.eye(4)[torch.tensor([[2, 3, 0]])]
    boxes = torch.tensor([[BOX_B, (0.1, 0.9, 0.1, 0.1), BOX_A]])
    losses, stats = evaluate(SetCriterion(3), logits, boxes, targets, assigned)
    assert losses["loss_bbox"] == 0
    assert losses["loss_giou"] == pytest.approx(0, abs=1e-5)
    assert losses["loss_cls"] == pytest.approx(0, abs=1e-6)
    assert stats["matched_iou"] == pytest.approx(1) and stats["class_accuracy"] == 1


def test_losses_by_hand():
    # one object, three queries: uniform logits over 3 + 1 classes; the box is half beside it
    targets = targets_of([(1, BOX_A)])
    assigned = torch.tensor([[-1, 0, -1]])
    boxes = torch.tensor([[BOX_B, (0.4, 0.3, 0.2, 0.2), BOX_B]])
    criterion = SetCriterion(3, 2.0, 5.0, 3.0, background_weight=0.25)
    losses, stats = evaluate(criterion, torch.zeros(1, 3, 4), boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(2 * math.log(4))
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.1)
    # overlap 0.02 of a union of 0.06, which fills its hull
    assert losses["loss_giou"].item() == pytest.approx(3 * (1 - 1 / 3), abs=1e-5)
    assert stats["matched_iou"].item() == pytest.approx(1 / 3, abs=1e-5)
    assert stats["class_accuracy"] == 0


def test_the_quality_of_a_box_is_the_share_of_its_class():
    """One object, uniform logits over 3 + 1 classes, a box of IoU 1/3; two background queries."""
    targets = targets_of([(1, BOX_A)])
    assigned = torch.tensor([[-1, 0, -1]])
    boxes = torch.tensor([[BOX_B, (0.4, 0.3, 0.2, 0.2), BOX_B]], requires_grad=True)
    criterion = SetCriterion(3, background_weight=0.25, iou_aware_targets=True)
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    losses, _ = evaluate(criterion, logits, boxes, targets, assigned)
    # a third for the class and two thirds for the background, together as much as a class alone
    assert losses["loss_cls"].item() == pytest.approx((1 + 2 * 0.25) * math.log(4) / 1.5)
    # the box learns nothing from it
    losses["loss_cls"].backward()
    assert boxes.grad is None
    # the query's own scores are drawn to the shares: (p - share) / 1.5
    expected = torch.tensor([1 / 4, 1 / 4 - 1 / 3, 1 / 4, 1 / 4 - 2 / 3]) / 1.5
    torch.testing.assert_close(logits.grad[0, 1], expected)


def test_background_queries_weigh_less():
    targets = targets_of([(0, BOX_A)])
    assigned = torch.tensor([[0, -1]])
    boxes = torch.tensor([[BOX_A, BOX_A]])
    # the object is missed with probability p, the background is certain
    logits = torch.tensor([[[0.0, 0.0], [-50.0, 50.0]]])
    losses, _ = evaluate(SetCriterion(1), logits, boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(math.log(2) / 1.1)
    logits = torch.tensor([[[50.0, -50.0], [0.0, 0.0]]])
    losses, _ = evaluate(SetCriterion(1), logits, boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(0.1 * math.log(2) / 1.1)


def test_no_object_in_the_whole_batch():
    logits, boxes = (x.requires_grad_() for x in random_predictions(2))
    assigned = torch.full((2, 6), -1)
    losses, stats = evaluate(SetCriterion(3), logits, boxes, targets_of([], []), assigned)
    values = {name: loss.item() for name, loss in losses.items()}
    assert values["loss_bbox"] == 0 and values["loss_giou"] == 0 and stats == {}
    assert 0 < values["loss_cls"] < math.inf
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0
    # zero, not absent: a distributed training waits for it
    assert boxes.grad is not None and boxes.grad.abs().sum() == 0


def test_normaliser():
    criterion = SetCriterion(3, background_weight=0.1)
    found = criterion.normalizer(targets_of([(0, BOX_A)] * 2, [], [(1, BOX_B)]), num_queries=5)
    assert found.boxes == 3 and found.classes.item() == pytest.approx(3 + 0.1 * 12)
    empty = criterion.normalizer(targets_of([], []), num_queries=5)
    assert empty.boxes == 1 and empty.classes.item() == pytest.approx(1.0)
    nothing = SetCriterion(3, background_weight=0).normalizer(targets_of([]), 5)
    assert nothing.classes > 0


def test_the_losses_do_not_know_the_order_of_the_queries():
    logits, boxes = random_predictions(2)
    targets = random_targets([3, 1])
    assigned = torch.tensor([[0, -1, 2, -1, 1, -1], [-1, -1, -1, 0, -1, -1]])
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    criterion = SetCriterion(3)
    losses, stats = evaluate(criterion, logits, boxes, targets, assigned)
    permuted = evaluate(criterion, logits[:, order], boxes[:, order], targets, assigned[:, order])
    torch.testing.assert_close(permuted, (losses, stats))
    other, _ = evaluate(criterion, logits[:, order], boxes, targets, assigned)
    assert abs(other["loss_cls"] - losses["loss_cls"]) > 1e-3


def test_images_without_objects_contribute():
    logits, boxes = (x.requires_grad_() for x in random_predictions(2))
    assigned = torch.tensor([[0, -1, -1, -1, -1, -1], [-1] * 6])
    losses, _ = evaluate(SetCriterion(3), logits, boxes, random_targets([1, 0]), assigned)
    sum(losses.values()).backward()
    assert logits.grad[1].abs().sum() > 0 and boxes.grad[1].abs().sum() == 0


@pytest.mark.parametrize("first, count, weights", [(0.25, 4, [0.25, 0.5, 1, 1]), (1, 2, [1, 1])])
def test_block_weights_double_up_to_one(first, count, weights):
    assert block_weights(first, count) == weights


@pytest.mark.parametrize("first", [0.0, 1.5])
def test_block_weights_are_shares(first):
    with pytest.raises(ValueError, match=f"FIRST_BLOCK_WEIGHT must be above 0.*got {first}"):
        block_weights(first, 4)
