"""Padded ground truth and target embeddings."""

import pytest
import torch
from torch.nn import functional as F

from flowdet.detection.boxes import paired_iou, to_corners
from flowdet.detection.targets import (
    TargetEmbedding,
    Targets,
    gather_targets,
    nearest_objects,
    ordered_assignment,
)
from tests.detection.tiny import record, targets_of


def from_records(*records, max_objects=6, num_classes=3):
    return Targets.from_instances([x["instances"] for x in records], max_objects, num_classes)


def test_boxes_are_normalized_by_their_own_image():
    targets = from_records(
        record([(1, (10, 20, 30, 60))], size=(80, 40)),
        record([(0, (0, 0, 64, 64)), (2, (16, 0, 32, 16))]),
    )
    assert targets.counts == [1, 2] and targets.dropped == []
    assert targets.classes[0, 0] == 1 and targets.classes[1].tolist() == [0, 2]
    torch.testing.assert_close(targets.boxes[0, 0], torch.tensor([0.5, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(targets.boxes[1, 0], torch.tensor([0.5, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(targets.boxes[1, 1], torch.tensor([0.375, 0.125, 0.25, 0.25]))
    assert targets.counts == [1, 2]


def test_images_without_objects():
    targets = from_records(record(), record())
    assert targets.counts == [0, 0]
    assert targets.classes.shape == (2, 0) and targets.boxes.shape == (2, 0, 4)
    assert targets.classes.shape == (2, 0)


def test_the_largest_objects_are_kept_in_their_order():
    objects = [
        (0, (0, 0, 4, 4)),
        (1, (0, 0, 30, 30)),
        (2, (5, 5, 10, 10)),
        (0, (0, 0, 50, 50)),
        (1, (0, 0, 2, 2)),
    ]
    targets = from_records(record(), record(objects), max_objects=3)
    assert targets.counts == [0, 3] and targets.dropped == [(1, 2)]
    assert targets.classes[1].tolist() == [1, 2, 0]
    torch.testing.assert_close(targets.boxes[1, 2, 2:], torch.tensor([50 / 64, 50 / 64]))
    # all objects remain for what does not match one to one
    every = targets.complete
    assert every.counts == [0, 5] and every.dropped == [] and every.complete is every
    assert every.classes[1].tolist() == [0, 1, 2, 0, 1]
    assert from_records(record(objects), max_objects=5).undropped is None


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes(label):
    with pytest.raises(ValueError, match=f"label {label}, .* classes 0 to 2.*NUM_CLASSES"):
        from_records(record([(0, (0, 0, 9, 9)), (label, (0, 0, 9, 9))]))


def test_embedding_is_class_plus_box_and_background_is_its_class():
    embedding = TargetEmbedding(3, 8)
    z_1 = embedding(targets_of([(2, (0.1, 0.2, 0.3, 0.4))], []))
    assert z_1.shape == (2, 2, 8)
    box = torch.tensor([0.1, 0.2, 0.3, 0.4]) @ embedding.box.weight.T
    torch.testing.assert_close(z_1[0, 0], embedding.classes.weight[2] + box)
    for image in z_1:
        assert torch.equal(image[-1], embedding.classes.weight[3])


def test_normalized_targets_have_equal_norms():
    torch.manual_seed(0)
    targets = targets_of([(0, (0.5, 0.5, 0.1, 0.1)), (1, (0.9, 0.9, 0.1, 0.1))])
    plain = TargetEmbedding(3, 8)
    normalized = TargetEmbedding(3, 8, normalize=True)
    normalized.load_state_dict(plain.state_dict())
    assert plain(targets).square().sum(-1).std() > 0.1
    torch.testing.assert_close(normalized(targets), F.layer_norm(plain(targets), (8,)))
    assert normalized(targets).square().sum(-1).std() < 1e-3


def test_embeddings_are_trained_only_if_learned():
    targets = targets_of([(0, (0.5, 0.5, 0.1, 0.1))])
    assert not TargetEmbedding(3, 8, learned=False)(targets).requires_grad
    embedding = TargetEmbedding(3, 8, learned=True)
    embedding(targets).square().sum().backward()
    assert embedding.box.weight.grad.abs().sum() > 0
    # the object's class and background, not the others
    assert embedding.classes.weight.grad.abs().sum(1).gt(0).tolist() == [True, False, False, True]


def test_every_query_gets_its_target():
    embeddings = torch.arange(12.0).reshape(2, 3, 2)
    assigned = torch.tensor([[1, -1, 0, -1], [-1, -1, -1, 0]])
    z_1 = gather_targets(embeddings, assigned)
    assert z_1[0].tolist() == [[2, 3], [4, 5], [0, 1], [4, 5]]
    assert z_1[1].tolist() == [[10, 11], [10, 11], [10, 11], [6, 7]]


def test_ordered_assignment():
    targets = targets_of([(0, (0.5, 0.5, 1, 1))] * 2, [], [(0, (0.5, 0.5, 1, 1))] * 3)
    expected = [[0, 1, -1], [-1, -1, -1], [0, 1, 2]]
    assert ordered_assignment(targets, 3).tolist() == expected


def test_nearest_objects():
    """Like a search over the pairs of each image; padding is never the nearest object."""
    generator = torch.Generator().manual_seed(0)
    targets = Targets(
        torch.zeros(3, 4, dtype=torch.long),
        torch.rand(3, 4, 4, generator=generator) * 0.4 + 0.2,
        [4, 1, 0],
        [],
    )
    boxes = torch.rand(3, 20, 4, generator=generator) * 0.4 + 0.2
    iou, index = nearest_objects(boxes, targets)
    for b, count in enumerate(targets.counts[:2]):
        corners = [
            [to_corners(box).expand(20, 4), to_corners(boxes[b])] for box in targets.boxes[b]
        ]
        pairs = torch.stack([paired_iou(*pair) for pair in corners[:count]])
        torch.testing.assert_close(iou[b], pairs.amax(0), rtol=0, atol=1e-6)
        assert torch.equal(index[b], pairs.argmax(0))
    assert (iou[2] == 0).all() and (index[2] == 0).all()
    empty = Targets(torch.zeros(3, 0), torch.zeros(3, 0, 4), [0, 0, 0], [])
    assert all((x == 0).all() and x.shape == (3, 20) for x in nearest_objects(boxes, empty))
