"""Image tokens on grids, and their bilinear sampling at points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from flowdet.flow import select_rows


@dataclass(frozen=True)
class TokenGrid:
    """The grid of the tokens of one feature map. The tokens are in row-major order.

    Attributes:
        height, width: size of the grid in tokens.
        extent: (x, y) of the lower right corner of the grid in normalized image coordinates,
            [B or 1, 2]; above 1 if the grid covers padding.
    """

    height: int
    width: int
    extent: Tensor

    def rows(self, index: Tensor) -> TokenGrid:
        """Returns the grid of the images `index`."""
        return replace(self, extent=select_rows(self.extent, index))


@dataclass(frozen=True)
class ImageTokens:
    """The image tokens that a transformer block attends to.

    Attributes:
        tokens: [B, N, d].
        position: their positional encoding, [B or 1, N, d] or None.
        padding: [B, N], True for padding tokens, which attention ignores; None without padding.
        grids: the grids of the feature maps, in the order of the tokens.
    """

    tokens: Tensor
    position: Tensor | None = None
    padding: Tensor | None = None
    grids: tuple[TokenGrid, ...] = ()

    def with_tokens(self, tokens: Tensor) -> ImageTokens:
        """Returns a copy with other token vectors [B, N, d]."""
        return replace(self, tokens=tokens)

    def __getitem__(self, index: Tensor) -> ImageTokens:
        """Returns the tokens of the images `index`."""
        grids = tuple(grid.rows(index) for grid in self.grids)
        position = select_rows(self.position, index)
        padding = None if self.padding is None else self.padding[index]
        return ImageTokens(self.tokens[index], position, padding, grids)


def sample_tokens(tokens: Tensor, grids: tuple[TokenGrid, ...], points: Tensor) -> Tensor:
    """Samples each feature map bilinearly at points; samples outside of it are 0.

    Args:
        tokens: the tokens of all grids, concatenated, [B, N, c].
        grids: the grids of the feature maps.
        points: (x, y) in normalized image coordinates, [B, M, P, 2].

    Returns:
        The samples of all feature maps, [B, M, P * levels, c].
    """
    sizes = [grid.height * grid.width for grid in grids]
    samples = []
    for grid, level in zip(grids, tokens.split(sizes, dim=1), strict=True):
        feature_map = level.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        # grid_sample uses coordinates from -1 to 1
        locations = 2 * points / grid.extent[:, None, None] - 1
        sampled = F.grid_sample(feature_map, locations.to(feature_map), align_corners=False)
        samples.append(sampled.permute(0, 2, 3, 1))
    # a single map needs no copy
    return samples[0] if len(samples) == 1 else torch.cat(samples, dim=2)


def token_maps(tokens: ImageTokens) -> list[Tensor]:
    """Returns the tokens of every grid as a feature map [B, d, H, W]."""
    sizes = [(grid.height, grid.width) for grid in tokens.grids]
    levels = tokens.tokens.split([height * width for height, width in sizes], dim=1)
    return [x.transpose(1, 2).unflatten(2, size) for x, size in zip(levels, sizes, strict=True)]


class PointReader(nn.Module):
    """Computes a vector per query from the image tokens at P points.

    It projects the tokens to a few channels, samples them at the points, and applies ReLU and a
    linear layer, or two, over all samples. Unlike attention, this layer has separate weights for
    each point, so it can locate the edges of an object in a box.

    Args:
        dim: d.
        num_points: P times the number of feature maps.
        channels: channels of a sample; 0 means d / 4.
        hidden_dim: hidden units between samples and output; 0 for a single linear layer.
    """

    def __init__(self, dim: int, num_points: int, channels: int = 0, hidden_dim: int = 0):
        super().__init__()
        channels = channels or max(dim // 4, 1)
        width = num_points * channels
        self.read = nn.Linear(dim, channels)
        self.merge: nn.Module = nn.Linear(width, dim)
        if hidden_dim:
            self.merge = MLP(width, [hidden_dim, dim], inplace=None)

    def narrow(self, tokens: Tensor) -> Tensor:
        """Projects tokens [B, N, d] to the channels of the samples, [B, N, c].

        This comes before the sampling, as there are fewer tokens than points; bilinear sampling and
        a linear map commute.
        """
        return F.linear(tokens, self.read.weight)

    def forward(self, narrowed: Tensor, grids: tuple[TokenGrid, ...], points: Tensor) -> Tensor:
        """Reads the tokens of B images at points.

        Args:
            narrowed: the result of `narrow`, [B, N, c].
            grids: the grids of the feature maps.
            points: normalized image coordinates, [B * S, M, P, 2]; the S rows of an image follow
                each other.

        Returns:
            A vector per query, [B * S, M, d].
        """
        of_images = points.reshape(narrowed.shape[0], -1, *points.shape[2:])
        sampled = sample_tokens(narrowed, grids, of_images) + self.read.bias
        read = self.merge(sampled.relu().flatten(-2))
        return read.reshape(*points.shape[:2], -1)
