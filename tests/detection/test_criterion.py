"""The detection loss against values computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from flowdet.detection.criterion import LossWeights, SetCriterion
from tests.detection.tiny import random_predictions, random_targets, targets_of

BOX_A, BOX_B = (0.3, 0.3, 0.2, 0.2), (0.7, 0.7, 0.4, 0.4)


def criterion_of(
    num_classes, classes=1.0, background=0.1, iou_aware_targets=False, ignore_iou=1.0, **weights
):
    weights = LossWeights(classes=classes, background=background, **weights)
    return SetCriterion(num_classes, weights, iou_aware_targets, ignore_iou)


def evaluate(criterion, logits, boxes, targets, assigned):
    normalizer = criterion.normalizer(targets, logits.shape[1])
    return criterion(logits, boxes, targets, assigned, normalizer)


def test_a_perfect_prediction_costs_nothing():
    targets = targets_of([(0, BOX_A), (2, BOX_B)])
    assigned = torch.tensor([[1, -1, 0]])
    logits = 50 * torch.eye(4)[torch.tensor([[2, 3, 0]])]
    boxes = torch.tensor([[BOX_B, (0.1, 0.9, 0.1, 0.1), BOX_A]])
    losses, stats = evaluate(criterion_of(3), logits, boxes, targets, assigned)
    assert losses["loss_bbox"] == 0
    assert losses["loss_giou"] == pytest.approx(0, abs=1e-5)
    assert losses["loss_cls"] == pytest.approx(0, abs=1e-6)
    assert stats["matched_iou"] == pytest.approx(1) and stats["class_accuracy"] == 1


def test_losses_by_hand():
    # one object, three queries: uniform logits over 3 + 1 classes; the box is half off the object
    targets = targets_of([(1, BOX_A)])
    assigned = torch.tensor([[-1, 0, -1]])
    boxes = torch.tensor([[BOX_B, (0.4, 0.3, 0.2, 0.2), BOX_B]])
    criterion = criterion_of(3, 2.0, 0.25, bbox=5.0, giou=3.0)
    losses, stats = evaluate(criterion, torch.zeros(1, 3, 4), boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(2 * math.log(4))
    assert losses["loss_bbox"].item() == pytest.approx(5 * 0.1)
    # overlap 0.02 of a union of 0.06, which fills its hull
    assert losses["loss_giou"].item() == pytest.approx(3 * (1 - 1 / 3), abs=1e-5)
    assert stats["matched_iou"].item() == pytest.approx(1 / 3, abs=1e-5)
    assert stats["class_accuracy"] == 0


def test_iou_aware_targets_by_hand():
    """One object, uniform logits over 3 + 1 classes, a box of IoU 1/3; two background queries."""
    targets = targets_of([(1, BOX_A)])
    assigned = torch.tensor([[-1, 0, -1]])
    boxes = torch.tensor([[BOX_B, (0.4, 0.3, 0.2, 0.2), BOX_B]], requires_grad=True)
    criterion = criterion_of(3, background=0.25, iou_aware_targets=True)
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    losses, _ = evaluate(criterion, logits, boxes, targets, assigned)
    # 1/3 for the class and 2/3 for the background, together the weight of a class
    assert losses["loss_cls"].item() == pytest.approx((1 + 2 * 0.25) * math.log(4) / 1.5)
    # no gradient reaches the box
    losses["loss_cls"].backward()
    assert boxes.grad is None
    # the gradient of a soft cross-entropy: (probability - target) / 1.5
    expected = torch.tensor([1 / 4, 1 / 4 - 1 / 3, 1 / 4, 1 / 4 - 2 / 3]) / 1.5
    torch.testing.assert_close(logits.grad[0, 1], expected)


def test_background_queries_have_their_weight():
    targets = targets_of([(0, BOX_A)])
    assigned = torch.tensor([[0, -1]])
    boxes = torch.tensor([[BOX_A, BOX_A]])
    # the object is missed with probability p, the background is certain
    logits = torch.tensor([[[0.0, 0.0], [-50.0, 50.0]]])
    losses, _ = evaluate(criterion_of(1), logits, boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(math.log(2) / 1.1)
    logits = torch.tensor([[[50.0, -50.0], [0.0, 0.0]]])
    losses, _ = evaluate(criterion_of(1), logits, boxes, targets, assigned)
    assert losses["loss_cls"].item() == pytest.approx(0.1 * math.log(2) / 1.1)


def test_background_queries_on_an_object_are_ignored():
    """Four queries at the same object: matched, IoU 1/3 twice, and elsewhere."""
    targets = targets_of([(0, BOX_A)], [])
    assigned = torch.tensor([[0, -1, -1, -1], [-1] * 4])
    half_off = (0.4, 0.3, 0.2, 0.2)
    boxes = torch.tensor([[BOX_A, half_off, half_off, BOX_B]] * 2, requires_grad=True)

    def gradients(ignore_iou):
        logits = torch.zeros(2, 4, 2, requires_grad=True)
        criterion = criterion_of(1, ignore_iou=ignore_iou)
        losses, _ = evaluate(criterion, logits, boxes, targets, assigned)
        losses["loss_cls"].backward()
        return losses["loss_cls"].item(), logits.grad.abs().sum(-1)

    # one object and six background queries of weight 0.1; the divisor does not change
    loss, every_query = gradients(0.34)
    assert loss == pytest.approx(1.7 * math.log(2) / 1.7) and every_query.gt(0).all()
    loss, some = gradients(0.33)
    assert loss == pytest.approx(1.5 * math.log(2) / 1.7)
    assert some.gt(0).tolist() == [[True, False, False, True], [True] * 4]
    # the matched query keeps its loss, whatever its box
    assert boxes.grad is None and torch.equal(some[0, 0], every_query[0, 0])


def test_queries_on_an_object_that_is_dropped_for_matching_are_ignored():
    complete = targets_of([(0, BOX_A), (0, BOX_B)])
    targets = replace(targets_of([(0, BOX_A)]), dropped=[(0, 1)], undropped=complete)
    boxes = torch.tensor([[BOX_A, BOX_B, (0.1, 0.9, 0.1, 0.1)]])
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    criterion = criterion_of(1, ignore_iou=0.5)
    losses, _ = evaluate(criterion, logits, boxes, targets, torch.tensor([[0, -1, -1]]))
    losses["loss_cls"].backward()
    assert logits.grad.abs().sum(-1).gt(0).tolist() == [[True, False, True]]


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, math.nan])
def test_impossible_ignore_iou(value):
    with pytest.raises(ValueError, match="IGNORE_IOU must be above 0 and at most 1"):
        criterion_of(1, ignore_iou=value)


def test_no_object_in_the_whole_batch():
    logits, boxes = (x.requires_grad_() for x in random_predictions(2))
    assigned = torch.full((2, 6), -1)
    losses, stats = evaluate(criterion_of(3), logits, boxes, targets_of([], []), assigned)
    values = {name: loss.item() for name, loss in losses.items()}
    assert values["loss_bbox"] == 0 and values["loss_giou"] == 0
    assert all(value.isnan() for value in stats.values())
    assert 0 < values["loss_cls"] < math.inf
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() > 0
    # zero, not None: DistributedDataParallel waits for all gradients
    assert boxes.grad is not None and boxes.grad.abs().sum() == 0


def test_normalizer():
    criterion = criterion_of(3)
    three = criterion.normalizer(targets_of([(0, BOX_A)] * 2, [], [(1, BOX_B)]), num_queries=5)
    assert three.boxes == 3 and three.classes.item() == pytest.approx(3 + 0.1 * 12)
    empty = criterion.normalizer(targets_of([], []), num_queries=5)
    assert empty.boxes == 1 and empty.classes.item() == pytest.approx(1.0)
    nothing = criterion_of(3, background=0.0).normalizer(targets_of([]), 5)
    assert nothing.classes > 0


def test_losses_are_invariant_to_the_order_of_the_queries():
    logits, boxes = random_predictions(2)
    targets = random_targets([3, 1])
    assigned = torch.tensor([[0, -1, 2, -1, 1, -1], [-1, -1, -1, 0, -1, -1]])
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    criterion = criterion_of(3)
    losses, stats = evaluate(criterion, logits, boxes, targets, assigned)
    permuted = evaluate(criterion, logits[:, order], boxes[:, order], targets, assigned[:, order])
    torch.testing.assert_close(permuted, (losses, stats), rtol=1e-5, atol=1e-5)
    other, _ = evaluate(criterion, logits[:, order], boxes, targets, assigned)
    assert abs(other["loss_cls"] - losses["loss_cls"]) > 1e-3


def test_images_without_objects_contribute():
    logits, boxes = (x.requires_grad_() for x in random_predictions(2))
    assigned = torch.tensor([[0, -1, -1, -1, -1, -1], [-1] * 6])
    losses, _ = evaluate(criterion_of(3), logits, boxes, random_targets([1, 0]), assigned)
    sum(losses.values()).backward()
    assert logits.grad[1].abs().sum() > 0 and boxes.grad[1].abs().sum() == 0


@pytest.mark.parametrize("first, count, weights", [(0.25, 4, [0.25, 0.5, 1, 1]), (1, 2, [1, 1])])
def test_block_weights_double_up_to_one(first, count, weights):
    assert LossWeights(first_block=first).per_block(count) == weights


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"first_block": 0.0}, "FIRST_BLOCK_WEIGHT must be above 0 and at most 1, got 0.0"),
        ({"first_block": 1.5}, "FIRST_BLOCK_WEIGHT must be above 0 and at most 1, got 1.5"),
        ({"start": 0.0}, "START_WEIGHT must be above 0, got 0.0"),
        ({"background": -0.1}, "BACKGROUND_WEIGHT_PER_IMAGE must not be negative"),
    ],
)
def test_impossible_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        LossWeights(**weights)
