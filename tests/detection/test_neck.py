"""The neck: feature maps to image tokens."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from flowdet.detection.neck import TokenNeck
from flowdet.detection.position import SinePositionalEncoding
from tests.detection.tiny import record, tiny_model


class Points(torch.nn.Module):
    """A positional encoding that is the position itself."""

    def forward(self, points):
        return points


def neck(*channels, dim=32, encoding=None, **kwargs):
    torch.manual_seed(0)
    shapes = [ShapeSpec(channels=c) for c in channels]
    return TokenNeck(shapes, dim, encoding or Points(), **kwargs)


def identity(dim):
    """A neck that returns the feature map as it is."""
    module = neck(dim, dim=dim)
    module.levels[0][0].weight.data = torch.eye(dim)[..., None, None]
    module.levels[0][0].bias.data.zero_()
    return module


def test_tokens_are_in_row_order():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    tokens = identity(1)([x], [(20, 30)], (20, 30))
    assert tokens.tokens[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    expected = [(x, y) for y in (1 / 4, 3 / 4) for x in (1 / 6, 3 / 6, 5 / 6)]
    torch.testing.assert_close(tokens.position[0], torch.tensor(expected))
    assert tokens.padding is None


def test_positions_are_relative_to_the_image_without_its_padding():
    x = torch.zeros(2, 1, 2, 4)
    tokens = identity(1)([x], [(16, 16), (8, 32)], (16, 32))
    # the first image fills the left half, the second the upper one; a cell is 8 x 8 pixels
    assert tokens.padding.tolist() == [
        [False, False, True, True] * 2,
        [False] * 4 + [True] * 4,
    ]
    first, second = tokens.position[:, :, 0], tokens.position[:, :, 1]
    assert first[0, :2].tolist() == [0.25, 0.75]
    assert second[0, [0, 4]].tolist() == [0.25, 0.75]
    assert first[1, :4].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert second[1, :4].tolist() == [0.5] * 4


def test_levels_have_different_embeddings():
    module = neck(4, 8)
    module.level_embedding.data[1] = 100
    maps = [torch.randn(2, 4, 4, 4), torch.randn(2, 8, 2, 2)]
    tokens = module(maps, [(32, 32), (32, 16)], (32, 32))
    assert tokens.tokens.shape == (2, 20, 32) and tokens.padding.shape == (2, 20)
    assert (tokens.tokens[:, :16] < 50).all() and (tokens.tokens[:, 16:] > 50).all()
    assert tokens.padding[1].sum() == 8 + 2
    tokens.tokens.sum().backward()
    assert module.level_embedding.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", ["", "GN", "LN"])
def test_residual_blocks_and_norms(norm):
    module = neck(4, encoding=SinePositionalEncoding(32, 4.0), norm=norm, num_blocks=2)
    tokens = module([torch.randn(2, 4, 4, 4)], [(32, 32)] * 2, (32, 32))
    assert tokens.tokens.shape == (2, 16, 32)
    tokens.tokens.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


def test_an_image_smaller_than_half_a_token_keeps_one_token():
    model = tiny_model()
    sizes = [(64, 64), (3, 2)]
    losses = model(
        [record([(0, (0, 0, w, h))], size=(h, w), seed=i) for i, (h, w) in enumerate(sizes)]
    )
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_position_of_a_token_does_not_depend_on_the_padding():
    neck = TokenNeck([ShapeSpec(channels=4, stride=32)], 4, Points(), norm="")
    alone = neck([torch.zeros(1, 4, 2, 2)], [(40, 40)], (40, 40))
    padded = neck([torch.zeros(1, 4, 3, 3)], [(40, 40)], (70, 70))
    shared = padded.position.view(1, 3, 3, 2)[:, :2, :2].flatten(1, 2)
    torch.testing.assert_close(alone.position, shared)
