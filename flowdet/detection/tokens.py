"""Image tokens on grids, and sampling them at points (bilinear)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowdet.flow import select_rows


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one feature map: a regular grid over the image, row by row.

    Attributes:
        height, width: in tokens.
        extent: (x, y) of the end of the grid in normalized image coordinates, [B, 2]; above 1 if it
            covers padding.
    """

    height: int
    width: int
    extent: Tensor


@dataclass(frozen=True)
class ImageTokens:
    """The image tokens that a transformer block attends to.

    Attributes:
        tokens: [B, N, d].
        position: their positional encoding, [B or 1, N, d] or None.
        padding: [B, N], True for padding tokens, which are masked in attention; None if there are
            none.
        grids: the feature maps of the tokens, in their order.
    """

    tokens: Tensor
    position: Tensor | None = None
    padding: Tensor | None = None
    grids: tuple[TokenGrid, ...] = ()

    def with_tokens(self, tokens: Tensor) -> ImageTokens:
        """A copy with other token vectors [B, N, d]."""
        return replace(self, tokens=tokens)

    def __getitem__(self, index: Tensor) -> ImageTokens:
        """The tokens of the images `index`."""
        grids = [replace(grid, extent=select_rows(grid.extent, index)) for grid in self.grids]
        parts = (select_rows(x, index) for x in (self.tokens, self.position, self.padding))
        return ImageTokens(*parts, tuple(grids))


def sample_tokens(tokens: Tensor, grids: tuple[TokenGrid, ...], points: Tensor) -> Tensor:
    """Bilinear samples of each feature map at points; zero outside of it.

    Args:
        tokens: [B, N, c], the tokens of all grids in turn.
        grids: the feature maps.
        points: [B, M, P, 2], (x, y), normalized image coordinates.

    Returns:
        [B, M, P * levels, c].
    """
    sizes = [grid.height * grid.width for grid in grids]
    samples = []
    for grid, level in zip(grids, tokens.split(sizes, dim=1), strict=True):
        feature_map = level.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        # grid_sample uses coordinates from -1 to 1
        locations = 2 * points / grid.extent[:, None, None] - 1
        sampled = F.grid_sample(feature_map, locations.to(feature_map), align_corners=False)
        samples.append(sampled.permute(0, 2, 3, 1))
    return torch.cat(samples, dim=2)


class PointReader(nn.Module):
    """Reads image tokens at P points per query: samples, ReLU, a linear layer over all points.

    Unlike attention it keeps the order of the points, so it can tell where in a box something
    begins or ends.

    Args:
        dim: d.
        num_points: P, times the number of feature maps.
    """

    def __init__(self, dim: int, num_points: int):
        super().__init__()
        narrow = max(dim // 4, 1)
        self.read = nn.Linear(dim, narrow)
        self.merge = nn.Linear(num_points * narrow, dim)

    def forward(self, tokens: ImageTokens, points: Tensor) -> Tensor:
        """Tokens, and points [B, M, P, 2] in normalized image coordinates, to [B, M, d]."""
        # The projection comes before the sampling, as there are fewer tokens than points; bilinear
        # sampling and a linear map commute.
        narrowed = F.linear(tokens.tokens, self.read.weight)
        sampled = sample_tokens(narrowed, tokens.grids, points) + self.read.bias
        return self.merge(sampled.relu().flatten(-2))
