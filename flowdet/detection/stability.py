"""Box stability: the mean IoU of a box with the boxes that follow from perturbed estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowdet.detection.boxes import paired_iou, to_corners

# perturbations of an image that `BoxStability` re-runs at once
_SAMPLES_PER_RUN = 8


class Refinement(NamedTuple):
    """The query embeddings after the steps (or layers) of a detector.

    Attributes:
        estimates: the embeddings after every step of a trajectory, each [B, M, d]; without a
            trajectory only the final embeddings.
        last_input: the estimate before the last step, [B, M, d]; None if there is no estimate.
        rerun_last_step: maps S other estimates of each image before the last step to the results of
            this step, both [B, S, M, d].
    """

    estimates: list[Tensor]
    last_input: Tensor | None
    rerun_last_step: Callable[[Tensor], Tensor]

    @property
    def z_1(self) -> Tensor:
        """The final embeddings, [B, M, d]."""
        return self.estimates[-1]


class BoxStability(nn.Module):
    """Measures the stability of boxes under perturbation of the estimate before the last step.

    The estimate is perturbed `samples` times, the last step is re-run, and the IoU of the resulting
    box with the original box is averaged. It is near 1 if the image determines the box. It is lower
    for small boxes than for large ones.

    Args:
        samples: number of perturbations, at least 1. Each of them re-runs the last step.
        noise: standard deviation of the perturbations, as a fraction of the standard deviation of
            an image's estimates; above 0.
        shape: (M, d). The perturbations are the same for all images.
        seed: seed of the perturbations.

    Raises:
        ValueError: `samples` or `noise` is out of its range.
    """

    def __init__(self, samples: int, noise: float, shape: tuple[int, int], seed: int = 0):
        super().__init__()
        if samples < 1 or noise <= 0:
            raise ValueError(
                "MODEL.FLOW_DET.STABILITY_SAMPLES must be at least 0 and STABILITY_NOISE above 0, "
                f"got {samples} and {noise}"
            )
        # an offset, because z_0 is drawn with the seed itself; torch uses the lower 32 bits
        generator = torch.Generator().manual_seed(seed + 2**31)
        values = noise * torch.randn(samples, *shape, generator=generator)
        self.register_buffer("noise", values, persistent=False)

    def forward(self, refinement: Refinement, decode_boxes: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes the stability of the box of every query, [B, M], in [0, 1].

        Args:
            refinement: the result of `SetDetector.refine`.
            decode_boxes: maps embeddings [..., d] to boxes [..., 4], normalized cxcywh.
        """
        before, boxes = refinement.last_input, to_corners(decode_boxes(refinement.z_1))
        std = before.std(dim=(1, 2), keepdim=True)
        overlaps = []
        # several perturbations in one run, but not so many that they need much memory
        for noise in self.noise.split(_SAMPLES_PER_RUN):
            perturbed = before[:, None] + std[:, None] * noise
            moved = to_corners(decode_boxes(refinement.rerun_last_step(perturbed)))
            overlaps.append(paired_iou(moved, boxes[:, None]))
        return torch.cat(overlaps, dim=1).mean(dim=1)
