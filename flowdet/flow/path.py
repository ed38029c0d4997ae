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
    """One point on the path of every batch element. All tensors except `t` are [B, ..., d].

    Attributes:
        z_0: noise.
        z_1: target.
        t: time of the state, [B], in [0, 1].
        z_t: state `(1 - t) z_0 + t z_1` (eq. 3).
        velocity: `z_1 - z_0` (eq. 4), the regression target of a flow block.
    """

    z_0: Tensor
    z_1: Tensor
    t: Tensor
    z_t: Tensor
    velocity: Tensor


class LinearPath:
    """The linear probability path of the paper (eq. 3-4) and its Euler steps.

    States, velocities and estimates are [B, ..., d]. Times are [B], in `step` plain numbers.
    """

    def sample(self, z_0: Tensor, z_1: Tensor, t: Tensor) -> PathSample:
        """Returns the state and the velocity at time `t`."""
        time = expand_time(t, z_0)
        return PathSample(z_0, z_1, t, torch.lerp(z_0, z_1, time.to(z_0)), z_1 - z_0)

    def target_of(self, z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """Returns `z1_hat = z_t + (1 - t) velocity` (eq. 15)."""
        return z_t + (1 - expand_time(t, z_t)) * velocity

    def step(self, z_t: Tensor, z1_hat: Tensor, t: float, t_next: float) -> Tensor:
        """Takes the Euler step from `t` to `t_next` along the velocity `(z1_hat - z_t) / (1 - t)`.

        The step is an interpolation between `z_t` and `z1_hat`. So the difference of the two is not
        divided by a small 1 - t, and the step to `t_next = 1` ends at `z1_hat` exactly.

        Raises:
            ValueError: `t_next` is not above `t`, or is above 1.
        """
        if not t < t_next <= 1:
            raise ValueError(f"an Euler step needs t < t_next <= 1, got {t} -> {t_next}")
        return torch.lerp(z_t, z1_hat, (t_next - t) / (1 - t))


Coupling = Callable[[Tensor, Tensor], Tensor]


def ordered_coupling(z_0: Tensor, z_1: Tensor) -> Tensor:
    """Assigns target j to noise vector j, the literal reading of the paper.

    Args:
        z_0: noise, [B, M, d].
        z_1: targets, [B, M, d].

    Returns:
        The index of the target of each noise vector, [B, M].
    """
    batch, count = z_1.shape[:2]
    return torch.arange(count, device=z_1.device).expand(batch, count)


def random_coupling(z_0: Tensor, z_1: Tensor) -> Tensor:
    """Assigns targets to noise vectors by a random permutation per batch element.

    Without the permutation the first queries would learn that they always get the objects.
    Arguments and result are those of `ordered_coupling`.
    """
    return torch.rand(z_1.shape[:2], device=z_1.device).argsort(dim=1)


def optimal_transport_coupling(assign: Callable[[Tensor], Tensor]) -> Coupling:
    """Returns the coupling that minimizes the summed squared distance between noise and targets.

    Args:
        assign: solves the assignment problem: maps costs [B, M, M] to the column of every row,
            [B, M]. It is an argument because this package imports only torch.
    """

    def couple(z_0: Tensor, z_1: Tensor) -> Tensor:
        return assign(torch.cdist(z_0.float(), z_1.float()).square())

    return couple


def couple(z_1: Tensor, index: Tensor) -> Tensor:
    """Reorders targets [B, M, ...] by `index` [B, M]: `result[b, j] = z_1[b, index[b, j]]`."""
    return z_1[torch.arange(len(z_1), device=z_1.device)[:, None], index]
