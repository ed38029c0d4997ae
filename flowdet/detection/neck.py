"""TokenNeck: maps the backbone's feature maps to the tokens that the blocks attend to (D.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import Tensor, nn

from flowdet.detection.position import SinePositionalEncoding
from flowdet.detection.tokens import ImageTokens, TokenGrid


class TokenNeck(nn.Module):
    """Applies a 1x1 projection to d, residual blocks, and a 2-D positional encoding.

    Several feature maps become one token sequence, with a learned embedding per level.

    Args:
        in_shapes: channels of the feature maps, and their strides if known.
        dim: d.
        encoding: positional encoding of points in the image.
        norm: detectron2's name of a normalization after the projection; "" for none.
        num_blocks: number of residual blocks of two 3x3 convolutions after the projection. They
            adapt the features of a frozen backbone, for example.
    """

    def __init__(
        self,
        in_shapes: Sequence[ShapeSpec],
        dim: int,
        encoding: SinePositionalEncoding,
        norm: str = "",
        num_blocks: int = 0,
    ):
        super().__init__()
        self.encoding = encoding
        self.strides = [shape.stride for shape in in_shapes]
        self.levels = nn.ModuleList(
            nn.Sequential(
                Conv2d(shape.channels, dim, 1, bias=not norm, norm=get_norm(norm, dim)),
                *[BasicBlock(dim, dim, norm=norm or "GN") for _ in range(num_blocks)],
            )
            for shape in in_shapes
        )
        several = len(in_shapes) > 1
        self.level_embedding = nn.Parameter(torch.zeros(len(in_shapes), dim)) if several else None

    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
    ) -> ImageTokens:
        """Computes the tokens of a padded batch.

        Args:
            feature_maps: one [B, C, H, W] per level.
            image_sizes: (height, width) of each image without padding, in pixels. A single entry
                applies to all images.
            padded_size: (height, width) of the batch, in pixels.
        """
        tokens, positions, paddings, grids = [], [], [], []
        for i, (layer, x) in enumerate(zip(self.levels, feature_maps, strict=True)):
            x = layer(x)
            steps = self._steps(i, x.shape[-2:], padded_size)
            grid, points, padding = _token_grid(x.shape[-2:], steps, image_sizes, x.device)
            flat = x.flatten(2).transpose(1, 2)
            tokens.append(flat if self.level_embedding is None else flat + self.level_embedding[i])
            positions.append(self.encoding(points))
            paddings.append(padding)
            grids.append(grid)
        padding = torch.cat(paddings, dim=1).expand(x.shape[0], -1)
        return ImageTokens(
            torch.cat(tokens, dim=1),
            torch.cat(positions, dim=1),
            None if all(tuple(size) == tuple(padded_size) for size in image_sizes) else padding,
            tuple(grids),
        )

    def _steps(self, level: int, shape: tuple, padded_size: tuple) -> tuple[float, float]:
        """Returns the distance of tokens in pixels, (vertical, horizontal).

        It is the stride if that is known. The position of a token then does not depend on the
        padding of its batch.
        """
        stride = self.strides[level]
        if stride:
            return stride, stride
        return padded_size[0] / shape[0], padded_size[1] / shape[1]


def _token_grid(shape, steps, image_sizes, device) -> tuple[TokenGrid, Tensor, Tensor]:
    """Returns a token grid, the token centers, and a mask.

    Centers are (x, y) in normalized image coordinates, [B or 1, H * W, 2]. The mask [B or 1, H * W]
    is True for padding.
    """
    height, width = shape
    y = (torch.arange(height, device=device) + 0.5) * steps[0]
    x = (torch.arange(width, device=device) + 0.5) * steps[1]
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(1, -1, 2)
    sizes = torch.tensor([(w, h) for h, w in image_sizes], device=device).float()[:, None]
    points = pixels / sizes
    extent = torch.tensor([width * steps[1], height * steps[0]], device=device) / sizes[:, 0]
    padding = (points > 1).any(dim=-1)
    # an image smaller than half a token keeps one token to attend to
    padding[:, 0] = False
    return TokenGrid(height, width, extent), points, padding
