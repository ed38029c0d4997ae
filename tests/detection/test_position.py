import pytest
import torch

from flowdet.detection.boxes import box_points, grid_boxes
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.position import QueryPositionalEncoding, SinePositionalEncoding


def grid(side):
    centres = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centres, centres)


def nearest_codes(code, side, points):
    """For every point the token of a side x side grid with the most similar code."""
    return (code(points) @ code(grid(side)).T).argmax(1)


@pytest.mark.parametrize("side", [4, 8, 12])
def test_the_likest_code_is_that_of_the_nearest_token(side):
    torch.manual_seed(0)
    # off the borders between tokens by a tenth of a token at least
    offsets = (torch.rand(500, 2) - 0.5) * 0.8
    cell = torch.randint(side, (500, 2))
    points = (cell + 0.5 + offsets) / side
    nearest = torch.cdist(points, grid(side)).argmin(1)
    assert torch.equal(nearest_codes(SinePositionalEncoding(32, side / 2), side, points), nearest)


def test_too_high_a_frequency_confuses_distant_tokens():
    torch.manual_seed(0)
    points = torch.rand(500, 2)
    distance = (
        grid(12)[nearest_codes(SinePositionalEncoding(16, 40.0), 12, points)] - points
    ).norm(dim=1)
    assert distance.max() > 2 / 12


def test_code_shape_and_dimension():
    assert SinePositionalEncoding(32, 4.0)(torch.rand(2, 3, 2)).shape == (2, 3, 32)
    with pytest.raises(ValueError, match="HIDDEN_DIM must be a multiple of 4, got 30"):
        SinePositionalEncoding(30, 4.0)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return DetectionHeads(32, 3, "mlp")


def test_without_anchoring_the_learned_code_serves_both_attentions():
    code, anchors = SinePositionalEncoding(32, 4.0), grid_boxes(5)
    position = QueryPositionalEncoding(code, 32, anchors, None)(None)
    assert position.own is position.cross
    torch.testing.assert_close(position.own.detach(), code(anchors[:, :2]))


def test_anchored_queries_look_where_the_estimate_is(heads):
    code, anchors = SinePositionalEncoding(32, 4.0), grid_boxes(5)
    positions = QueryPositionalEncoding(code, 32, anchors, heads.boxes)
    for p in positions.mlp.parameters():
        p.data.zero_()
    wanted = grid_boxes(5)[torch.tensor([3, 0, 4, 1, 2])]
    position = positions(heads.embed(wanted)[None])
    torch.testing.assert_close(position.cross[0], code(wanted[:, :2]), rtol=0, atol=1e-2)
    torch.testing.assert_close(position.own, code(anchors[:, :2]))


def test_no_gradient_flows_into_the_estimate(heads):
    positions = QueryPositionalEncoding(
        SinePositionalEncoding(32, 4.0), 32, grid_boxes(5), heads.boxes
    )
    estimate = torch.randn(2, 5, 32, requires_grad=True)
    positions(estimate).cross.square().sum().backward()
    assert estimate.grad is None and heads.box.weight.grad is None
    assert positions.mlp[0].weight.grad.abs().sum() > 0


def test_points_of_a_box():
    points = box_points(torch.tensor([0.5, 0.25, 0.4, 0.2]), 3)
    expected = [(x, y) for y in (0.15, 0.25, 0.35) for x in (0.3, 0.5, 0.7)]
    torch.testing.assert_close(points, torch.tensor(expected))
