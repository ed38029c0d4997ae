"""The variants of NoProp: noise schedule, loss of a block, and inference.

`flowdet.flowcls.baselines.noprop` has the formulas, the networks and the classifier.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowdet.flow import LinearPath, training_noise

# `predict(block, z, t)`: the output of a block for states [B, d], uhat or v, [B, d]
Predict = Callable[[int, Tensor, Tensor], Tensor]


class Process(nn.Module, ABC):
    """Noise of the embeddings, loss of a block and inference: one of the three variants.

    Attributes:
        num_blocks: number of networks.
        num_draws: number of noise vectors that inference needs.
        timed: whether the networks get the time.
        velocity: whether they predict v; otherwise uhat.
        trains_embedding: whether the loss of a block trains the embeddings.
    """

    num_blocks = 1
    num_draws = 1
    timed = True
    velocity = False
    trains_embedding = True

    @abstractmethod
    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Computes the losses of a block by name.

        Args:
            block: its index, from 0.
            predict: computes the output of a block.
            target: u_y, [B, d].
            class_loss: computes -log p(y | z), averaged, of states [B, d].
        """

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Computes the losses that need no block; for the arguments see `block_loss`."""
        return {}

    @abstractmethod
    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        """Computes z of every step of inference, without z_0, each [B, d].

        Args:
            predict: computes the output of a block.
            noise: [B, num_draws, d]; the first one is z_0.
        """


class DiscreteTime(Process):
    """NoProp-DT.

    Args:
        alpha_bar: abar_0, ..., abar_T.
    """

    timed = False
    trains_embedding = False

    def __init__(self, alpha_bar: Sequence[float]):
        super().__init__()
        self.alpha_bar = list(alpha_bar)
        self.num_blocks = len(self.alpha_bar) - 1
        self.num_draws = self.num_blocks + 1

    def snr(self, t: int) -> float:
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def coefficients(self, t: int) -> tuple[float, float, float]:
        """Returns a_t, b_t and c_t, t = 1, ..., T."""
        before, after = self.alpha_bar[t - 1], self.alpha_bar[t]
        ratio, noise = before / after, 1 - before
        return (
            math.sqrt(after) * (1 - ratio) / noise,
            math.sqrt(ratio) * (1 - after) / noise,
            (1 - after) * (1 - ratio) / noise,
        )

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        z = noisy(target, torch.tensor(self.alpha_bar[block]))
        error = squared_error(predict(block, z, time_of(z, block)), target).mean()
        return {"loss_denoise": (self.snr(block + 1) - self.snr(block)) * error}

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        return {"loss_class": class_loss(noisy(target, torch.tensor(self.alpha_bar[-1])))}

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        for t in range(1, self.num_blocks + 1):
            a, b, c = self.coefficients(t)
            z = a * predict(t - 1, z, time_of(z, t - 1)) + b * z + math.sqrt(c) * noise[:, t]
            states.append(z)
        return states


class ContinuousTime(Process):
    """NoProp-CT.

    Args:
        log_snr: log SNR at t = 0 and at t = 1.
        num_steps: number of ODE steps of inference.
        uniform: whether every time has the weight 1 in the loss, not SNR'(t). Then the schedule is
            not trained.
        num_terms: number of sigmoids of the schedule.
    """

    def __init__(
        self, log_snr: Sequence[float], num_steps: int, uniform: bool = False, num_terms: int = 8
    ):
        super().__init__()
        self.low, self.high = log_snr
        self.num_steps = num_steps
        self.uniform = uniform
        # softplus of these: the schedule starts as nearly linear
        self.slope = nn.Parameter(torch.zeros(()))
        self.weights = nn.Parameter(torch.full((num_terms,), -3.0))
        self.rates = nn.Parameter(torch.full((num_terms,), 5.0))
        self.centers = nn.Parameter(torch.linspace(0, 1, num_terms))
        self.requires_grad_(not uniform)

    def log_snr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Computes -gamma(t) and its derivative, for times [B]."""
        ends, _ = self._increasing(torch.tensor([0.0, 1.0], device=t.device))
        value, derivative = self._increasing(t)
        factor = (self.high - self.low) / (ends[1] - ends[0])
        return self.low + factor * (value - ends[0]), factor * derivative

    def _increasing(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope, weights, rates = map(F.softplus, (self.slope, self.weights, self.rates))
        s = (rates * (t[:, None] - self.centers)).sigmoid()
        value = slope * t + (weights * s).sum(dim=1)
        return value, slope + (weights * rates * s * (1 - s)).sum(dim=1)

    def alpha_bar(self, t: Tensor) -> Tensor:
        return self.log_snr(t)[0].sigmoid()

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        t = torch.rand(len(target), device=target.device)
        log_snr, derivative = self.log_snr(t)
        error = squared_error(predict(block, noisy(target, log_snr.sigmoid()), t), target)
        weight = 1.0 if self.uniform else log_snr.exp() * derivative
        return {"loss_denoise": (weight * error).mean()}

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        first, last = torch.tensor([self.low, self.high]).sigmoid()
        return {
            "loss_class": class_loss(noisy(target, last)),
            "loss_prior": prior_divergence(target, float(first)).mean(),
        }

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        alpha_bar = self.alpha_bar(torch.linspace(0, 1, self.num_steps + 1, device=z.device))
        for step in range(self.num_steps):
            before, after = alpha_bar[step], alpha_bar[step + 1]
            u = predict(0, z, time_of(z, step / self.num_steps))
            residual = (z - before.sqrt() * u) * ((1 - after) / (1 - before)).sqrt()
            z = after.sqrt() * u + residual
            states.append(z)
        return states


class FlowMatching(Process):
    """NoProp-FM.

    Args:
        num_steps: number of Euler steps of inference.
    """

    velocity = True

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = num_steps

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        path = LinearPath()
        t = torch.rand(len(target), device=target.device)
        sample = path.sample(training_noise(target.shape, 1.0, target.device), target, t)
        velocity = predict(block, sample.z_t, t)
        return {
            "loss_denoise": squared_error(velocity, sample.velocity).mean(),
            "loss_class": class_loss(path.target_of(sample.z_t, velocity, t)),
        }

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        for step in range(self.num_steps):
            z = z + predict(0, z, time_of(z, step / self.num_steps)) / self.num_steps
            states.append(z)
        return states


def cosine_schedule(num_blocks: int, offset: float = 0.008) -> list[float]:
    """Returns abar_0 = 0, ..., abar_T = cos(offset / (1 + offset) pi / 2)^2, close to 1."""
    inner = [
        math.cos(math.pi / 2 * (1 - t / num_blocks + offset) / (1 + offset)) ** 2
        for t in range(1, num_blocks + 1)
    ]
    return [0.0, *inner]


def noisy(target: Tensor, alpha_bar: Tensor) -> Tensor:
    """Draws from N(sqrt(abar) u, (1 - abar) I) for targets u [B, d] and abar [B] or a number."""
    alpha_bar = alpha_bar.to(target).reshape(-1, 1)
    noise = training_noise(target.shape, 1.0, target.device)
    return alpha_bar.sqrt() * target + (1 - alpha_bar).sqrt() * noise


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Computes |x - y|^2 of vectors [B, d]: [B]."""
    return (x - y).square().sum(dim=1)


def prior_divergence(target: Tensor, alpha_bar: float) -> Tensor:
    """Computes KL(N(sqrt(abar) u, (1 - abar) I) || N(0, I)) for targets u [B, d]: [B]."""
    spread = alpha_bar + math.log1p(-alpha_bar)
    return (alpha_bar * target.square().sum(dim=1) - target.shape[1] * spread) / 2


def time_of(z: Tensor, t: float) -> Tensor:
    """Returns the time t of every state [B, d]: [B]."""
    return torch.full((z.shape[0],), float(t), device=z.device)
