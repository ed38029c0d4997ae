"""LabelOverlay: writes a class label into images, as Forward-Forward learning needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flowdet.config import PixelSettings

LABELS = ("pixels", "pattern")


class LabelOverlay(nn.Module):
    """Writes labels, or a neutral code for no label, into normalized images.

    - `pixels` (Hinton 2022, section 3.3): the first C pixels of the image, row by row, are the
      one-hot code of the label: white for its class, black for the other classes. The neutral code
      has the gray value 1 / C in all of them.
    - `pattern`: every class has a fixed random pattern, a tile of black and white values in each
      color channel, that is repeated over the image and blended with it. It is the intrinsic class
      pattern of SymBa (Lee & Song 2023). The neutral code is the mean of all patterns. A
      convolution sees the label at every position, while it sees `pixels` only near the corner.

    Args:
        kind: `pixels` or `pattern`.
        num_classes: C.
        strength: weight of the pattern in the blended image, from 0 to 1.
        tile: side of the tile, in pixels.
        pixels: normalization of the images.

    Raises:
        ValueError: unknown kind.
    """

    def __init__(
        self, kind: str, num_classes: int, strength: float, tile: int, pixels: PixelSettings
    ):
        super().__init__()
        if kind not in LABELS:
            raise ValueError(f"unknown MODEL.FORWARD_FORWARD.LABEL {kind!r}: use one of {LABELS}")
        self.kind = kind
        self.num_classes = num_classes
        self.strength = strength
        mean, std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
        self.register_buffer("black", (-mean / std).view(-1, 1, 1), False)
        self.register_buffer("white", ((255 - mean) / std).view(-1, 1, 1), False)
        if kind == "pattern":
            values = torch.randint(0, 2, (num_classes, len(mean), tile, tile)).float()
            # saved in checkpoints: the layers learn these patterns
            self.register_buffer("patterns", values)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Writes the labels [B], or by default the neutral code, into images [B, 3, H, W].

        Raises:
            ValueError: an image has fewer than C pixels, for `pixels`.
        """
        if labels is None:
            code = images.new_full((images.shape[0], self.num_classes), 1 / self.num_classes)
        else:
            code = nn.functional.one_hot(labels, self.num_classes).to(images)
        return self._pixels(images, code) if self.kind == "pixels" else self._blend(images, code)

    def _pixels(self, images: Tensor, code: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height * width < self.num_classes:
            raise ValueError(
                f"images of {height} x {width} pixels have no room for the labels of "
                f"{self.num_classes} classes: enlarge INPUT.FIXED_SIZE, or set "
                "MODEL.FORWARD_FORWARD.LABEL pattern"
            )
        flat = images.flatten(2).clone()
        flat[..., : self.num_classes] = self._color(code[:, None, None]).flatten(2)
        return flat.view_as(images)

    def _blend(self, images: Tensor, code: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        tile = self._color(torch.einsum("bk,kcij->bcij", code, self.patterns.to(code)))
        repeats = [math.ceil(n / tile.shape[-1]) for n in (height, width)]
        pattern = tile.repeat(1, 1, *repeats)[..., :height, :width]
        return images.lerp(pattern, self.strength)

    def _color(self, values: Tensor) -> Tensor:
        """Converts values from 0 (black) to 1 (white), [..., 1 or 3, h, w], to pixels."""
        return self.black.to(values) + values * (self.white - self.black).to(values)
