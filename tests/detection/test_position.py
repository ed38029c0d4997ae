"""Positional encodings of tokens and queries."""

import pytest
import torch

from flowdet.detection.boxes import grid_boxes
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.position import QueryPositionalEncoding, SinePositionalEncoding


def grid(side):
    centers = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centers, centers)


def most_similar(encoding, side, points):
    """For every point the token of a side x side grid with the most similar encoding."""
    return (encoding(points) @ encoding(grid(side)).T).argmax(1)


@pytest.mark.parametrize("side", [4, 8, 12])
def test_the_most_similar_encoding_is_that_of_the_nearest_token(side):
    torch.manual_seed(0)
    # at least a tenth of a token away from the borders between tokens
    offsets = (torch.rand(500, 2) - 0.5) * 0.8
    cell = torch.randint(side, (500, 2))
    points = (cell + 0.5 + offsets) / side
    nearest = torch.cdist(points, grid(side)).argmin(1)
    assert torch.equal(most_similar(SinePositionalEncoding(32, side / 2), side, points), nearest)


def test_a_too_high_frequency_aliases():
    torch.manual_seed(0)
    points = torch.rand(500, 2)
    distance = (grid(12)[most_similar(SinePositionalEncoding(16, 40.0), 12, points)] - points).norm(
        dim=1
    )
    assert distance.max() > 2 / 12


def test_shape_and_dimension():
    assert SinePositionalEncoding(32, 4.0)(torch.rand(2, 3, 2)).shape == (2, 3, 32)
    with pytest.raises(ValueError, match="HIDDEN_DIM must be a multiple of 4, got 30"):
        SinePositionalEncoding(30, 4.0)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return DetectionHeads(32, 3, "mlp")


def test_without_anchors_both_attentions_use_the_learned_encoding():
    encoding, anchors = SinePositionalEncoding(32, 4.0), grid_boxes(5)
    position = QueryPositionalEncoding(encoding, 32, anchors, None)(None)
    assert position.own is position.cross
    torch.testing.assert_close(position.own.detach(), encoding(anchors[:, :2]))


def test_cross_attention_is_centered_at_the_box_of_the_estimate(heads):
    encoding, anchors = SinePositionalEncoding(32, 4.0), grid_boxes(5)
    positions = QueryPositionalEncoding(encoding, 32, anchors, heads.boxes)
    for p in positions.mlp.parameters():
        p.data.zero_()
    boxes = grid_boxes(5)[torch.tensor([3, 0, 4, 1, 2])]
    position = positions(heads.embed(boxes)[None])
    torch.testing.assert_close(position.cross[0], encoding(boxes[:, :2]), rtol=0, atol=1e-2)
    torch.testing.assert_close(position.own, encoding(anchors[:, :2]))


def test_no_gradient_flows_into_the_estimate(heads):
    positions = QueryPositionalEncoding(
        SinePositionalEncoding(32, 4.0), 32, grid_boxes(5), heads.boxes
    )
    estimate = torch.randn(2, 5, 32, requires_grad=True)
    positions(estimate).cross.square().sum().backward()
    assert estimate.grad is None and heads.box.weight.grad is None
    assert positions.mlp[0].weight.grad.abs().sum() > 0


def test_the_frequencies_are_saved_and_old_checkpoints_load():
    """A model keeps the frequencies it was trained with; checkpoints without them still load."""
    trained, other = SinePositionalEncoding(32, 4.0), SinePositionalEncoding(32, 9.0)
    expected = trained(torch.tensor([[0.3, 0.7]]))
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other(torch.tensor([[0.3, 0.7]])), expected)
    trained.load_state_dict({})
    torch.testing.assert_close(trained(torch.tensor([[0.3, 0.7]])), expected)
