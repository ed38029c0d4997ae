"""The noise z_0, where the flow starts."""

from __future__ import annotations

import torch
from torch import Tensor


def training_noise(shape: tuple[int, ...], scale: float, device: torch.device) -> Tensor:
    """Draws z_0 for training, `shape` = [B, ..., d], with torch's global generator.

    `scale` is its standard deviation.
    """
    return scale * torch.randn(shape, device=device)


def inference_noise(
    shape: tuple[int, ...], scale: float, seed: int, batch: int, device: torch.device
) -> Tensor:
    """Draws z_0 for inference, [batch, *shape], with a seed of its own.

    It is the same for every image, so results depend neither on the batch nor on the global
    generator. `scale` is its standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *shape, generator=generator)
    return (scale * noise).to(device).expand(batch, *shape)
