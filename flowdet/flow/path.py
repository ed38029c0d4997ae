"""The linear path from noise to target, and the coupling of noise vectors and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """Views `t` [B] as [B, 1, ..., 1] with as many dimensions as `like` [B, ..., d]."""
    return t.reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class PathSample:
    """One point on the path of every batch element; all tensors but `t` are [B, ..., d].

    Attributes:
        z_0: noise.
        z_1: target.
        t: time of the state, [B], in [0, 1].
        z_t: state `(1 - t) z_0 + t z_1` (eq. 3).
        velocity: `z_1 - z_0` (eq. 4), the target of a flow block.
    """

    z_0: Tensor
    z_1: Tensor
    t: Tensor
    z_t: Tensor
    velocity: Tensor


class LinearPath:
    """The linear probability path of the paper (eq. 3-4) and its Euler steps.

    States are [B, ..., d], times are [B].
    """

    def sample(self, z_0: Tensor, z_1: Tensor, t: Tensor) -> PathSample:
        """The state and the velocity at time `t`."""
        time = expand_time(t, z_0)
        return PathSample(z_0, z_1, t, torch.lerp(z_0, z_1, time.to(z_0)), z_1 - z_0)

    def target_of(self, z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """`z1_hat = z_t + (1 - t) velocity` (eq. 15)."""
        return z_t + (1 - expand_time(t, z_t)) * velocity

    def step(self, z_t: Tensor, z1_hat: Tensor, t: float, t_next: float) -> Tensor:
        """The Euler step from `t` to `t_next` along the velocity `(z1_hat - z_t) / (1 - t)`.

        Computed as an interpolation: nothing is divided by a number near 0, and the step to
        `t_next = 1` ends at `z1_hat` exactly.

        Raises:
            ValueError: a step backwards, past 1, or from t = 1.
        """
        if not t < t_next <= 1:
            raise ValueError(f"an Euler step needs t < t_next <= 1, got {t} -> {t_next}")
        return torch.lerp(z_t, z1_hat, (t_next - t) / (1 - t))


Coupling = Callable[[Tensor, Tensor], Tensor]


def ordered_coupling(z_0: Tensor, z_1: Tensor) -> Tensor:
    """Target j goes to noise vector j, as the paper reads. Returns the indices, [B, M]."""
    batch, count = z_1.shape[:2]
    return torch.arange(count, device=z_1.device).expand(batch, count)


def random_coupling(z_0: Tensor, z_1: Tensor) -> Tensor:
    """Targets go to noise vectors by a random permutation per batch element.

    So no query can learn that the first few of them get the objects. Returns the indices, [B, M].
    """
    return torch.rand(z_1.shape[:2], device=z_1.device).argsort(dim=1)


def optimal_transport_coupling(assign: Callable[[Tensor], Tensor]) -> Coupling:
    """The coupling with the smallest summed squared distance between noise and targets.

    Args:
        assign: solves the assignment problem: costs [B, M, M] to the column of every row, [B, M].
            An argument, because this package imports torch only.
    """

    def couple(z_0: Tensor, z_1: Tensor) -> Tensor:
        return assign(torch.cdist(z_0.float(), z_1.float()).square())

    return couple


def couple(z_1: Tensor, index: Tensor) -> Tensor:
    """Reorders the targets [B, M, ...]: row j of the result is row `index[:, j]` of `z_1`."""
    return z_1[torch.arange(len(z_1), device=z_1.device)[:, None], index]
