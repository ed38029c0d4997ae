"""Image tokens, and sampling them at points."""

import pytest
import torch

from flowdet.detection.tokens import ImageTokens, PointReader, TokenGrid, sample_tokens


def linear_tokens(height, width, extent):
    """Tokens that hold their normalized positions, on two grids of this and half the size."""
    rows, grids = [], []
    for h, w in ((height, width), (height // 2, width // 2)):
        x = (torch.arange(w) + 0.5) / w * extent[0]
        y = (torch.arange(h) + 0.5) / h * extent[1]
        rows.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(1, -1, 2))
        grids.append(TokenGrid(h, w, torch.tensor([extent])))
    return ImageTokens(torch.cat(rows, dim=1), grids=tuple(grids))


def sample(tokens, points):
    return sample_tokens(tokens.tokens, tokens.grids, points)


@pytest.mark.parametrize("extent", [(1.0, 1.0), (1.5, 1.0), (1.0, 1.25)])
def test_samples_of_linear_tokens_are_exact(extent):
    """Bilinear sampling of values that are linear in the position."""
    torch.manual_seed(0)
    points = 0.2 + 0.6 * torch.rand(1, 3, 4, 2)
    sampled = sample(linear_tokens(8, 12, extent), points)
    assert sampled.shape == (1, 3, 8, 2)
    torch.testing.assert_close(sampled, torch.cat([points, points], dim=2))


def test_samples_outside_of_the_feature_map_are_zero():
    points = torch.tensor([[[[1.4, 0.5], [0.5, -0.4]]]])
    sampled = sample(linear_tokens(4, 4, (1.0, 1.0)), points)
    assert torch.equal(sampled, torch.zeros_like(sampled))


def test_projecting_before_or_after_sampling_is_the_same():
    """The reader projects before sampling; outside of the image too."""
    torch.manual_seed(0)
    grids = (TokenGrid(3, 4, torch.tensor([[1.0, 1.0], [1.5, 1.0]])),)
    tokens = ImageTokens(torch.randn(2, 12, 8), grids=grids)
    points = 1.6 * torch.rand(2, 5, 4, 2) - 0.3
    reader = PointReader(8, 4)
    sampled = sample(tokens, points)
    expected = reader.merge(reader.read(sampled).relu().flatten(-2))
    narrowed = reader.narrow(tokens.tokens)
    torch.testing.assert_close(reader(narrowed, grids, points), expected, rtol=1e-4, atol=1e-5)
    # the order of the points matters
    swapped = reader(narrowed, grids, points.flip(2))
    assert not torch.allclose(swapped, expected)
