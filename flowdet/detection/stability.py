"""How well a box stands: the last step of the transport, asked again from noisy estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert


class Transport(NamedTuple):
    """The queries on their way through a detector.

    Attributes:
        estimates: what they end as, [B, M, d]; with `trajectory` preceded by what they are after
            every earlier step.
        before: the estimate from which the last step was made, [B, M, d].
        ask: what the last step makes of another one, [B, M, d].
    """

    estimates: list[Tensor]
    before: Tensor
    ask: Callable[[Tensor], Tensor]

    @property
    def z_1(self) -> Tensor:
        """What the queries end as."""
        return self.estimates[-1]


class Stability(nn.Module):
    """Rates boxes by how little they move when the last step starts from a noisy estimate.

    The mean IoU of `draws` such boxes with the box itself: near 1 where the image holds the box
    in place, low where it does not, and lower for small boxes than for large ones.

    Args:
        draws: boxes that a box is compared with, at one call of a block each.
        noise: standard deviation of the noise, as a share of that of an image's estimates.
        shape: of the noise of one image, (M, d). It is the same for all images.
        seed: of the noise.

    Raises:
        ValueError: no draws, or no noise.
    """

    def __init__(self, draws: int, noise: float, shape: tuple[int, int], seed: int = 0):
        super().__init__()
        if draws < 1 or noise <= 0:
            raise ValueError(
                "MODEL.FLOW_DET.STABILITY_DRAWS must be at least 0 and STABILITY_NOISE above 0, "
                f"got {draws} and {noise}"
            )
        generator = torch.Generator().manual_seed(seed)
        values = noise * torch.randn(draws, *shape, generator=generator)
        self.register_buffer("noise", values, persistent=False)

    def forward(self, transport: Transport, decode_boxes: Callable[[Tensor], Tensor]) -> Tensor:
        """In [0, 1], of every query, [B, M]. `decode_boxes` maps [B, M, d] to [B, M, 4]."""
        before, boxes = transport.before, decode_boxes(transport.z_1)
        spread = before.std(dim=(1, 2), keepdim=True)
        asked = [decode_boxes(transport.ask(before + spread * noise)) for noise in self.noise]
        return torch.stack([overlap(found, boxes) for found in asked]).mean(dim=0)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """IoU of boxes [..., 4], normalised cxcywh, one to one: [...]. Boxes without area have 0.

    detectron2's `matched_pairwise_iou` would fix the size of the batch in an exported graph.
    """
    first, second = (box_convert(x, "cxcywh", "xyxy").split(2, dim=-1) for x in (one, other))
    sides = torch.minimum(first[1], second[1]) - torch.maximum(first[0], second[0])
    shared = sides.clamp(min=0).prod(dim=-1)
    union = one[..., 2:].prod(dim=-1) + other[..., 2:].prod(dim=-1) - shared
    return shared / union.clamp(min=1e-12)
