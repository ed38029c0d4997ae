"""Image tokens that lie on grids, and reading them at points in between."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenGrid:
    """Consecutive tokens that lie on a regular grid over the image, row by row.

    Attributes:
        height, width: in tokens.
        extent: where the grid ends, (x, y) in units of each image, [B, 2]: above 1 where it
            reaches into the padding.
    """

    height: int
    width: int
    extent: Tensor


@dataclass(frozen=True)
class ImageTokens:
    """What a transformer block attends to.

    Attributes:
        tokens: [B, N, d].
        position: position code of the tokens, [B, N, d] or None.
        padding: [B, N], True where a token is padding and must not be seen; None if none is.
        grids: the feature maps that the tokens come from, in their order.
    """

    tokens: Tensor
    position: Tensor | None = None
    padding: Tensor | None = None
    grids: tuple[TokenGrid, ...] = ()

    def with_tokens(self, tokens: Tensor) -> ImageTokens:
        return replace(self, tokens=tokens)

    def __getitem__(self, index: Tensor) -> ImageTokens:
        """The tokens of the images of these numbers."""
        grids = [replace(grid, extent=rows(grid.extent, index)) for grid in self.grids]
        parts = (rows(x, index) for x in (self.tokens, self.position, self.padding))
        return ImageTokens(*parts, tuple(grids))


def rows(x: Tensor | None, index: Tensor) -> Tensor | None:
    """`x[index]`, but all of what is one for the whole batch, or None."""
    return x if x is None or len(x) == 1 else x[index]


def sample_tokens(tokens: Tensor, grids: tuple[TokenGrid, ...], points: Tensor) -> Tensor:
    """Tokens at points, bilinear between those of each feature map; zeros outside of it.

    Args:
        tokens: [B, N, c], those of all grids in turn.
        grids: where they lie.
        points: [B, M, P, 2], (x, y) in units of the image.

    Returns:
        [B, M, P * levels, c].
    """
    sizes = [grid.height * grid.width for grid in grids]
    sampled = []
    for grid, rows in zip(grids, tokens.split(sizes, dim=1), strict=True):
        feature_map = rows.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        # grid_sample counts from -1 to 1 over the map
        place = 2 * points / grid.extent[:, None, None] - 1
        found = F.grid_sample(feature_map, place.to(feature_map), align_corners=False)
        sampled.append(found.permute(0, 2, 3, 1))
    return torch.cat(sampled, dim=2)


class PointReader(nn.Module):
    """What the tokens at P points say: [B, N, d] to [B, M, d]. Unlike attention it tells the points
    apart, so that it can see where in a box something begins and ends.

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
        """The tokens, and points [B, M, P, 2] in units of the image, to [B, M, d]."""
        # narrowed before they are sampled: there are fewer tokens than points, and to narrow
        # what lies between two tokens is to lie between two narrowed ones
        narrowed = F.linear(tokens.tokens, self.read.weight)
        sampled = sample_tokens(narrowed, tokens.grids, points) + self.read.bias
        return self.merge(sampled.relu().flatten(-2))
