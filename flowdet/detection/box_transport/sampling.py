"""How boxes are sampled at inference: settings, steps and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flowdet.detection.stability import Refinement


@dataclass(frozen=True)
class SamplingSettings:
    """How boxes are sampled at inference.

    Attributes:
        num_steps: number K of sampling steps.
        noise_seed: seed of all noise.
        renewal_threshold: before the next step, boxes with a lower score are replaced by random
            boxes. 0 replaces none.
        ensemble_steps: whether the detections of all steps are merged by non-maximum suppression.
            Otherwise the result is that of the last step.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_steps: int = 4
    noise_seed: int = 0
    renewal_threshold: float = 0.0
    ensemble_steps: bool = False

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(
                f"MODEL.BOX_TRANSPORT.NUM_STEPS must be at least 1, got {self.num_steps}"
            )
        if not 0 <= self.renewal_threshold <= 1:
            raise ValueError(
                f"MODEL.BOX_TRANSPORT.BOX_RENEWAL must be in [0, 1], got {self.renewal_threshold}"
            )

    @property
    def times(self) -> list[float]:
        """The times before each step, and 1: K + 1 times, evenly spaced."""
        return [k / self.num_steps for k in range(self.num_steps + 1)]


class SamplingStep(NamedTuple):
    """One step of the sampling.

    Attributes:
        boxes: the boxes that the decoder gets, [B, M, 4], normalized cxcywh.
        refinement: the query embeddings that it predicts from them.
        pred_boxes: the predicted boxes, [B, M, 4], normalized cxcywh.
        scores: the highest class probability of each query, without background, [B, M].
    """

    boxes: Tensor
    refinement: Refinement
    pred_boxes: Tensor
    scores: Tensor


def noise_source(
    seed: int, batch: int, num_boxes: int, device: torch.device
) -> Callable[[], Tensor]:
    """Returns a function that draws standard normal noise [batch, num_boxes, 4].

    The noise follows from the seed and is the same for every image, so that results depend neither
    on the batch nor on torch's global generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        noise = torch.randn(1, num_boxes, 4, generator=generator)
        return noise.to(device).expand(batch, -1, -1)

    return draw
