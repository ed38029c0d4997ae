"""Paths from noise boxes to object boxes: diffusion and straight lines."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowdet.flow import LinearPath
from flowdet.flow.path import expand_time

PATHS = ("diffusion", "flow")


class BoxPath(nn.Module, ABC):
    """A path of boxes from noise at t = 0 to objects at t = 1.

    States, noise and boxes are scaled boxes [B, M, 4], see `BoxScale`. The noise is standard
    normal.
    """

    def check_steps(self, num_steps: int) -> None:
        """Raises ValueError if the path cannot be sampled in this number of steps."""

    @abstractmethod
    def training_times(self, count: int, device: torch.device) -> Tensor:
        """Draws the times of training states, [count], with torch's global generator."""

    @abstractmethod
    def state(self, noise: Tensor, boxes: Tensor, t: Tensor) -> Tensor:
        """Returns the state at times t [B] on the path from `noise` to `boxes`."""

    @abstractmethod
    def step(self, state: Tensor, boxes: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """Takes a sampling step.

        Args:
            state: the state at `t`.
            boxes: the boxes at t = 1 that are predicted from this state.
            t, t_next: times before and after the step; `t_next` is above `t`.
            noise: fresh noise.

        Returns:
            The state at `t_next`; for `t_next` 1 these are the predicted boxes.
        """


class DiffusionPath(BoxPath):
    """The diffusion of DiffusionDet: cosine schedule, prediction of the boxes, DDIM steps.

    Diffusion step n = N (1 - t) counts from the boxes (n = 0) to the noise (n = N):
    `state = sqrt(alpha_bar_n) boxes + sqrt(1 - alpha_bar_n) noise`.

    Args:
        num_timesteps: N.
        eta: 0 makes the DDIM steps deterministic, 1 adds as much noise as DDPM does.

    Raises:
        ValueError: `num_timesteps` or `eta` is out of its range.
    """

    def __init__(self, num_timesteps: int = 1000, eta: float = 1.0):
        super().__init__()
        if num_timesteps < 1:
            raise ValueError(
                f"MODEL.BOX_TRANSPORT.NUM_TIMESTEPS must be at least 1, got {num_timesteps}"
            )
        if not 0 <= eta <= 1:
            raise ValueError(f"MODEL.BOX_TRANSPORT.DDIM_ETA must be in [0, 1], got {eta}")
        self.num_timesteps = num_timesteps
        self.eta = eta
        alpha_bars = cosine_alpha_bars(num_timesteps)
        self.alpha_bars: list[float] = alpha_bars.tolist()
        self.register_buffer("signal", alpha_bars.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - alpha_bars).sqrt().float(), persistent=False)

    def check_steps(self, num_steps: int) -> None:
        if num_steps > self.num_timesteps:
            raise ValueError(
                f"MODEL.BOX_TRANSPORT.NUM_STEPS is {num_steps}, but must be at most NUM_TIMESTEPS "
                f"= {self.num_timesteps}"
            )

    def training_times(self, count: int, device: torch.device) -> Tensor:
        """Draws one of the N diffusion steps above 0 for each state."""
        n = torch.randint(1, self.num_timesteps + 1, (count,), device=device)
        return 1 - n / self.num_timesteps

    def state(self, noise: Tensor, boxes: Tensor, t: Tensor) -> Tensor:
        n = ((1 - t) * self.num_timesteps).round().long()
        return (
            expand_time(self.signal[n], boxes) * boxes + expand_time(self.noise[n], noise) * noise
        )

    def step(self, state: Tensor, boxes: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """Takes a step of DDIM (Song et al. 2021, eq. 12 and 16)."""
        before, after = (self.alpha_bars[self._number(x)] for x in (t, t_next))
        variance = self.eta**2 * (1 - after) / (1 - before) * (1 - before / after)
        predicted_noise = (state - math.sqrt(before) * boxes) / math.sqrt(1 - before)
        # rounding can make the difference negative
        direction = math.sqrt(max(1 - after - variance, 0.0)) * predicted_noise
        return math.sqrt(after) * boxes + direction + math.sqrt(variance) * noise

    def _number(self, t: float) -> int:
        """Returns the number n of the diffusion step at time t."""
        return round((1 - t) * self.num_timesteps)


def cosine_alpha_bars(num_timesteps: int) -> Tensor:
    """Returns the cosine schedule of Nichol and Dhariwal (2021, eq. 17), [N + 1], float64.

    Entry 0, without noise, is 1. As in their paper, no single step removes more than 99.9 % of the
    signal's variance, so that the last entry stays above 0.
    """
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    cosines = torch.cos((steps + 0.008) / 1.008 * math.pi / 2).square()
    kept = (cosines[1:] / cosines[:-1]).clamp(min=1 - 0.999)
    return torch.cat([kept.new_ones(1), kept.cumprod(dim=0)])


class FlowPath(BoxPath):
    """The path of DeFloMat: straight lines from noise to boxes, and Euler steps."""

    def __init__(self):
        super().__init__()
        self.line = LinearPath()

    def training_times(self, count: int, device: torch.device) -> Tensor:
        """Draws times from the uniform distribution on [0, 1)."""
        return torch.rand(count, device=device)

    def state(self, noise: Tensor, boxes: Tensor, t: Tensor) -> Tensor:
        return self.line.sample(noise, boxes, t).z_t

    def step(self, state: Tensor, boxes: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """Takes an Euler step with the velocity `(boxes - state) / (1 - t)`, without noise."""
        return self.line.step(state, boxes, t, t_next)


def build_path(name: str, num_timesteps: int, eta: float) -> BoxPath:
    """Builds a path by its name.

    Args:
        name: `diffusion` or `flow`.
        num_timesteps, eta: for `diffusion`, see `DiffusionPath`.

    Raises:
        ValueError: unknown name; also as `DiffusionPath`.
    """
    if name not in PATHS:
        raise ValueError(f"unknown MODEL.BOX_TRANSPORT.PATH {name!r}: use one of {PATHS}")
    return DiffusionPath(num_timesteps, eta) if name == "diffusion" else FlowPath()
