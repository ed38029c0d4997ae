"""The states z_t that blocks are trained on: interpolated, or on-policy rollouts of the blocks.

An interpolated z_t with t > 0 contains information about the target. A rollout contains only the
predictions of the previous blocks, like the states at inference.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble
from flowdet.flow.state import FlowState
from flowdet.flow.time_intervals import block_at


@contextmanager
def without_gradient() -> Iterator[None]:
    """A context like `torch.no_grad` that clears autocast's cache of cast weights at its end.

    In older versions of torch (pytorch issue 112583) a weight that is first cast in `no_grad` stays
    in the cache without gradient, and the following training step does not train it.
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


@dataclass(frozen=True)
class TrainingSample:
    """One state on which a block is trained.

    Attributes:
        state: the state.
        trains_features: whether the loss on this state passes a gradient to the features.
        is_start: whether it is the state at t = 0 that `StateSettings.learn_at_start` adds.
    """

    state: FlowState
    trains_features: bool = True
    is_start: bool = False


# Evaluates a block on a training sample and returns its estimate `z1_hat`, [B, ..., d].
Evaluate = Callable[[TrainingSample], Tensor]


@dataclass(frozen=True)
class StateSettings:
    """How training states are made.

    Attributes:
        kind: `interpolated` or `rollout`.
        learn_at_start: also train every block at t = 0 in every iteration.
        states_train_features: with `learn_at_start`, whether the losses at t > 0 also pass a
            gradient to the features. Otherwise only the losses at t = 0 do, where z_t contains no
            information about the target.
        rollout_steps: the number of Euler steps of a rollout is drawn from these; T if empty.
        state_noise: Gaussian noise on the estimates of a rollout, as a fraction of their standard
            deviation, times 1 - t. It simulates the larger errors that are made on unseen images.

    Raises:
        ValueError: unknown kind, a number of steps below 1, or negative noise.
    """

    kind: str = "interpolated"
    learn_at_start: bool = False
    states_train_features: bool = True
    rollout_steps: tuple[int, ...] = ()
    state_noise: float = 0.0

    def __post_init__(self):
        if self.kind not in TRAINING_STATES:
            raise ValueError(
                f"unknown training states {self.kind!r} (TRAINING_STATES): use one of "
                f"{sorted(TRAINING_STATES)}"
            )
        if min(self.rollout_steps, default=1) < 1:
            raise ValueError(f"ROLLOUT_STEPS must be at least 1, got {self.rollout_steps}")
        if self.state_noise < 0:
            raise ValueError(f"STATE_NOISE must not be negative, got {self.state_noise}")

    def trains_at_start(self, block: int, num_blocks: int) -> bool:
        """Returns whether block `block` (from 0) of `num_blocks` is ever trained near t = 0."""
        if block == 0 or self.learn_at_start or self.kind == "interpolated":
            return True
        # in a rollout of fewer than T steps, a block that serves no step is trained on the step in
        # which its interval starts; this may be the first step
        return any(
            block * steps < num_blocks
            and not any(block_at(s / steps, num_blocks) == block for s in range(steps))
            for steps in self.rollout_steps
        )


class TrainingStates(ABC):
    """The training states of one iteration.

    Args:
        settings: how the states are made.
        ensemble: the T blocks.
        z_0: noise, [B, ..., d].
        features: the features that the blocks get in steps of a rollout without gradient.
    """

    def __init__(
        self, settings: StateSettings, ensemble: FlowEnsemble, z_0: Tensor, features: object
    ):
        self.settings = settings
        self.ensemble = ensemble
        self.initial = ensemble.initial_state(z_0)
        self.features = features
        self._last_block = -1

    def visit(self, block: int, evaluate: Evaluate, z_1: Tensor | None = None) -> None:
        """Calls `evaluate` on each training sample of a block. A sample at t = 0 comes first.

        A rollout continues from the estimate of the last sample.

        Args:
            block: index of the block, from 0.
            evaluate: evaluates the block on a sample.
            z_1: target, [B, ..., d]; interpolated states need it.

        Raises:
            RuntimeError: blocks are not visited in ascending order.
        """
        if block <= self._last_block:
            raise RuntimeError(
                f"block {block} after block {self._last_block}: training states must be visited in "
                "ascending order of the blocks, each block once"
            )
        self._last_block = block
        for sample in self.samples(block, z_1):
            z1_hat = evaluate(sample)
        self._keep(block, z1_hat)

    def samples(self, block: int, z_1: Tensor | None = None) -> list[TrainingSample]:
        """Returns the training samples of a block; for the arguments see `visit`.

        Only interpolated states can be made without `visit`, for all blocks at once. The state of a
        rollout depends on the estimates of previous blocks.
        """
        state = self.state(block, z_1)
        if not self.settings.learn_at_start or state is self.initial:
            return [TrainingSample(state)]
        return [
            TrainingSample(self.initial, is_start=True),
            TrainingSample(state, self.settings.states_train_features),
        ]

    @abstractmethod
    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        """Returns the state on which block `block` (from 0) is trained.

        Args:
            block: index of the block.
            z_1: target, [B, ..., d]; interpolated states need it.
        """

    def _keep(self, block: int, z1_hat: Tensor) -> None:
        """Keeps the estimate that block `block` made on its state, if later states need it."""
        return


class InterpolatedStates(TrainingStates):
    """States `z_t = (1 - t) z_0 + t z_1` at t ~ U[0, 1) (eq. 3, Algorithm 1). They need `z_1`."""

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        t = torch.rand(len(self.initial.z), device=self.initial.z.device)
        sample = self.ensemble.path.sample(self.initial.z, z_1, t)
        return replace(self.initial, z=sample.z_t, t=t)


class RolloutStates(TrainingStates):
    """On-policy states: block k is trained on a state of multi-step inference in its interval.

    The number of Euler steps is drawn from `StateSettings.rollout_steps`:

    - With T steps, block k is trained on the state after the step of block k - 1.
    - With more steps, it is trained on a random one of the states in its interval.
    - With fewer steps, several blocks are trained on the same state; with one step, all blocks are
      trained at t = 0.

    The prediction of a block in training is also its step of the rollout, so a rollout of T steps
    needs no extra forward pass. Additional steps, and the steps of blocks that are not trained in
    this iteration (schedule `alternate`), are computed without gradient.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.current = self.initial
        choices = self.settings.rollout_steps or (self.ensemble.num_blocks,)
        self.times = self.ensemble.times(random.choice(choices))
        self.step = 0
        # the estimate of the current step, if the block that serves the step was evaluated
        self.z1_hat: Tensor | None = None

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        for _ in range(self.step, self._step_of(block)):
            self._advance()
        return self.current

    def _step_of(self, block: int) -> int:
        """Draws one of the steps that a block serves.

        For a block that serves no step it returns the step into which the block's interval falls.
        """
        count, steps = self.ensemble.num_blocks, len(self.times) - 1
        served = [s for s in range(steps) if block_at(self.times[s], count) == block]
        return random.choice(served) if served else block * steps // count

    def _advance(self) -> None:
        """Takes the Euler step of the block that serves the current time."""
        t, t_next = self.times[self.step : self.step + 2]
        if self.z1_hat is None:
            with without_gradient():
                block = block_at(t, self.ensemble.num_blocks)
                self.z1_hat = self.ensemble.predict(block, self.current, self.features).z1_hat
        z1_hat = self.perturbed(self.z1_hat, t_next)
        self.current = self.ensemble.advance(self.current, z1_hat, t, t_next)
        self.step, self.z1_hat = self.step + 1, None

    def perturbed(self, z1_hat: Tensor, t_next: float) -> Tensor:
        """Adds Gaussian noise of `state_noise * (1 - t_next)` standard deviations to `z1_hat`."""
        scale = self.settings.state_noise * (1 - t_next)
        return z1_hat + scale * z1_hat.std() * torch.randn_like(z1_hat) if scale else z1_hat

    def _keep(self, block: int, z1_hat: Tensor) -> None:
        if block_at(self.times[self.step], self.ensemble.num_blocks) == block:
            self.z1_hat = z1_hat.detach()


TRAINING_STATES: dict[str, type[TrainingStates]] = {
    "interpolated": InterpolatedStates,
    "rollout": RolloutStates,
}


TrainingStatesFactory = Callable[[StateSettings, FlowEnsemble, Tensor, object], TrainingStates]


def make_training_states(settings: StateSettings, *args, **kwargs) -> TrainingStates:
    """Makes the training states of one iteration; `args` and `kwargs`: see `TrainingStates`."""
    return TRAINING_STATES[settings.kind](settings, *args, **kwargs)
