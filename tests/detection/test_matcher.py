"""Hungarian matching by hand and its invariances."""

import pytest
import torch

from flowdet.detection.matcher import HungarianMatcher, solve_assignment
from tests.detection.tiny import random_predictions, random_targets, targets_of

BOX_A, BOX_B, BOX_C = (0.2, 0.2, 0.2, 0.2), (0.5, 0.5, 0.2, 0.2), (0.8, 0.8, 0.2, 0.2)


@pytest.fixture
def matcher():
    return HungarianMatcher(class_weight=1, bbox_weight=5, giou_weight=2)


def one_image(targets, i):
    return targets_of(
        list(zip(targets.classes[i].tolist(), targets.boxes[i].tolist()))[: targets.counts[i]]
    )


def test_the_total_cost_is_minimal_not_that_of_a_pair():
    # a greedy matching would take the 0 first and have a total of 0 + 10
    costs = torch.tensor([[[0.0, 1.0], [2.0, 10.0], [20.0, 20.0]]])
    assert solve_assignment(costs).tolist() == [[1, 0, -1]]


def test_each_query_gets_the_object_at_its_position():
    matcher = HungarianMatcher(0, 1, 0)
    boxes = torch.tensor([[BOX_C, BOX_A, BOX_B]])
    targets = targets_of([(0, BOX_A), (0, BOX_C)])
    assert matcher(torch.zeros(1, 3, 4), boxes, targets).tolist() == [[1, 0, -1]]


def test_the_class_decides_between_equal_boxes():
    matcher = HungarianMatcher(1, 5, 2)
    logits = torch.tensor([[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]]])
    targets = targets_of([(0, BOX_A), (1, BOX_A)])
    assert matcher(logits, torch.tensor([[BOX_A, BOX_A]]), targets).tolist() == [[1, 0]]


def test_costs_by_hand():
    logits = torch.tensor([[[0.0, 0.0]]])
    # two adjacent boxes of area 0.04: IoU 0, and they fill their hull of 0.4 x 0.2
    targets = targets_of([(0, (0.4, 0.2, 0.2, 0.2))])
    costs = HungarianMatcher(1, 5, 2).costs(logits, torch.tensor([[BOX_A]]), targets)
    assert costs.tolist() == [[[pytest.approx(5 * 0.2 - 0.5 - 2 * 0)]]]
    # with a gap as wide as a box, a third of the hull is empty: GIoU -1/3
    targets = targets_of([(0, (0.6, 0.2, 0.2, 0.2))])
    costs = HungarianMatcher(0, 0, 3).costs(logits, torch.tensor([[BOX_A]]), targets)
    assert costs.tolist() == [[[pytest.approx(1.0, abs=1e-5)]]]


def test_matchings_do_not_depend_on_the_batch(matcher):
    counts = [3, 0, 6, 1]
    logits, boxes = random_predictions(4)
    targets = random_targets(counts)
    assigned = matcher(logits, boxes, targets)
    for i in range(4):
        alone = matcher(logits[i : i + 1], boxes[i : i + 1], one_image(targets, i))
        assert torch.equal(assigned[i], alone[0])
        assert sorted(assigned[i][assigned[i] >= 0].tolist()) == list(range(counts[i]))


def test_padded_targets_are_never_matched(matcher):
    # a box without width has no IoU with the padding's empty boxes
    logits, boxes = random_predictions(2)
    boxes[:, 2, 2:] = 0
    targets = random_targets([3, 1])
    assigned = matcher(logits, boxes, targets)
    assert [(row >= 0).sum().item() for row in assigned] == [3, 1]


def test_no_object_in_the_whole_batch(matcher):
    assigned = matcher(*random_predictions(2), targets_of([], []))
    assert assigned.tolist() == [[-1] * 6] * 2


def test_as_many_objects_as_queries(matcher):
    assigned = matcher(*random_predictions(1), random_targets([6]))
    assert sorted(assigned[0].tolist()) == list(range(6))


def test_permuting_queries_permutes_the_matching(matcher):
    logits, boxes = random_predictions(2)
    targets = random_targets([4, 2])
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    permuted = matcher(logits[:, order], boxes[:, order], targets)
    assert torch.equal(permuted, matcher(logits, boxes, targets)[:, order])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["logits", "boxes"])
def test_predictions_that_are_not_finite(matcher, broken, where):
    logits, boxes = random_predictions(2)
    {"logits": logits, "boxes": boxes}[where][1, 2, 0] = broken
    with pytest.raises(ValueError, match="not finite.*BASE_LR"):
        matcher(logits, boxes, random_targets([2, 2]))


def test_half_precision_predictions_are_matched_in_float32(matcher):
    logits, boxes = random_predictions(2)
    targets = random_targets([4, 2])
    half = logits.bfloat16(), boxes.bfloat16()
    rounded = matcher(half[0].float(), half[1].float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(matcher(*half, targets), rounded)


def test_no_gradient_and_at_least_one_weight(matcher):
    logits, boxes = random_predictions(1)
    assert not matcher(logits.requires_grad_(), boxes, random_targets([2])).requires_grad
    with pytest.raises(ValueError, match="not 0"):
        HungarianMatcher(0, 0, 0)
