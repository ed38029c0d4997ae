"""Scaled boxes, which are the states of a box path, and their padding with random boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowdet.detection.targets import Targets


@dataclass(frozen=True)
class BoxScale:
    """Maps normalized boxes (cxcywh) from [0, 1] to [-limit, limit] and back.

    The noise of a path is standard normal. So the limit sets the signal-to-noise ratio:
    DiffusionDet uses 2.

    Raises:
        ValueError: the limit is not above 0.
    """

    limit: float

    def __post_init__(self):
        if self.limit <= 0:
            raise ValueError(f"MODEL.BOX_TRANSPORT.SIGNAL_SCALE must be above 0, got {self.limit}")

    def scaled(self, boxes: Tensor) -> Tensor:
        """Maps normalized boxes [..., 4] to scaled boxes."""
        return self.limit * (2 * boxes - 1)

    def normalized(self, scaled: Tensor) -> Tensor:
        """Maps scaled boxes [..., 4], clamped to the limit, to normalized boxes."""
        return (self.clamped(scaled) / self.limit + 1) / 2

    def clamped(self, scaled: Tensor) -> Tensor:
        """Clamps scaled boxes [..., 4] to [-limit, limit]."""
        return scaled.clamp(-self.limit, self.limit)


def padded_boxes(targets: Targets, num_boxes: int, scale: BoxScale) -> Tensor:
    """Pads the objects of every image with random boxes.

    A random box is clamped Gaussian noise. On a diffusion path its state is distributed as noise at
    every time, apart from the clamping. The boxes are drawn with torch's global generator.

    Args:
        targets: the objects, at most `num_boxes` per image.
        num_boxes: M.
        scale: the scale of the boxes.

    Returns:
        Scaled boxes [B, M, 4]. The first of an image are its objects.
    """
    batch, objects = targets.boxes.shape[:2]
    random = torch.randn(batch, num_boxes, 4, device=targets.boxes.device)
    boxes = F.pad(scale.scaled(targets.boxes), (0, 0, 0, num_boxes - objects))
    counts = torch.tensor(targets.counts, device=boxes.device)
    is_object = torch.arange(num_boxes, device=boxes.device) < counts[:, None]
    return torch.where(is_object[..., None], boxes, scale.clamped(random))


def renewed(states: Tensor, scores: Tensor, threshold: float, random: Tensor) -> Tensor:
    """Replaces the states whose score is below a threshold (DiffusionDet's box renewal).

    Args:
        states: [B, M, 4].
        scores: the score of each box, [B, M].
        threshold: boxes with a lower score are replaced; 0 replaces none.
        random: the states that replace them, [B, M, 4] or [M, 4].
    """
    return torch.where((scores < threshold)[..., None], random, states)
