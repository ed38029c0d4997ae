"""The states on which blocks learn: interpolated ones, or those that the solver visits.

An interpolated z_t with t > 0 contains the answer; a visited one contains only what the
blocks have found so far, which is what they get at inference.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble, FlowState, block_at


@contextmanager
def without_gradient() -> Iterator[None]:
    """`torch.no_grad`, after which autocast casts the weights anew.

    In older versions of torch (pytorch issue 112583) a weight first cast without gradient stays
    in autocast's cache like that, and the training step that follows finds no way back to it.
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


@dataclass(frozen=True)
class Lesson:
    """A state on which a block learns.

    Attributes:
        state: the state.
        trains_features: whether the block's loss there passes a gradient to the features.
    """

    state: FlowState
    trains_features: bool = True


@dataclass(frozen=True)
class StateSettings:
    """How training states are made.

    Attributes:
        kind: `interpolated` or `chain`.
        chain_steps: `chain` draws the number of Euler steps from these; T steps if there are none.
        state_noise: noise on the estimates of a walk, before the next step is made from them, as a
            share of their standard deviation; it shrinks with what is left of the way, 1 - t. What
            blocks say of training images is better than what they say of others: with it the next
            block has seen worse.
        learn_at_start: every block learns at t = 0 in every iteration, and beside it on the
            state above.
        walk_trains_features: with it, whether the features get gradients on the state above too,
            or at t = 0 alone, where nothing but the image tells the answer.
    """

    kind: str = "interpolated"
    learn_at_start: bool = False
    walk_trains_features: bool = True
    chain_steps: tuple[int, ...] = ()
    state_noise: float = 0.0

    def __post_init__(self):
        if self.kind not in TRAINING_STATES:
            raise ValueError(
                f"unknown training states {self.kind!r}: use one of {sorted(TRAINING_STATES)}"
            )
        if min(self.chain_steps, default=1) < 1:
            raise ValueError(
                f"chain_steps (CHAIN_STEPS) must be at least 1, got {self.chain_steps}"
            )
        if self.state_noise < 0:
            raise ValueError(f"state_noise (STATE_NOISE) is negative: {self.state_noise}")


class TrainingStates(ABC):
    """The states of one iteration. Ask `lessons(k)` for the blocks in order, then tell `visited`.

    Args:
        settings: how they are made.
        ensemble: the blocks.
        z_0: noise, [B, ..., d].
        features: what the blocks look at when they walk, without gradient.
    """

    def __init__(
        self, settings: StateSettings, ensemble: FlowEnsemble, z_0: Tensor, features: object
    ):
        self.settings = settings
        self.ensemble = ensemble
        self.initial = ensemble.initial_state(z_0)
        self.features = features

    @abstractmethod
    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        """The state on which block `block` (from 0) learns; `z_1` [B, ..., d] if known."""

    def lessons(self, block: int, z_1: Tensor | None = None) -> list[Lesson]:
        """All that block `block` (from 0) learns on, `state` last; `z_1` [B, ..., d] if known."""
        state = self.state(block, z_1)
        if not self.settings.learn_at_start or state is self.initial:
            return [Lesson(state)]
        return [Lesson(self.initial), Lesson(state, self.settings.walk_trains_features)]

    def blurred(self, z1_hat: Tensor, t_next: float) -> Tensor:
        """An estimate with `state_noise`, from which the walk goes on at `t_next`."""
        scale = self.settings.state_noise * (1 - t_next)
        return z1_hat + scale * z1_hat.std() * torch.randn_like(z1_hat) if scale else z1_hat

    def visited(self, block: int, z1_hat: Tensor) -> None:
        """Takes note that block `block` has predicted `z1_hat` on its state, the last lesson."""
        return


class InterpolatedStates(TrainingStates):
    """`z_t = (1 - t) z_0 + t z_1` at t ~ U[0, 1) (eq. 3, Algorithm 1). Needs `z_1`."""

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        t = torch.rand(len(self.initial.z), device=self.initial.z.device)
        sample = self.ensemble.path.sample(self.initial.z, z_1, t)
        return replace(self.initial, z=sample.z_t, t=t)


class ChainStates(TrainingStates):
    """Block k learns on a state that multi-step inference visits in its time interval.

    The number of steps is drawn from `StateSettings.chain_steps`. With T of them block k learns on
    what block k - 1 has left; with more, on one of the states of its interval; with fewer, blocks
    that share a step learn on one state: with a single step all of them at t = 0. What a block
    predicts while it learns is its own step, so T steps cost no extra pass; steps between, and
    blocks that are skipped (schedule `alternate`), are made without gradient.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.current = self.initial
        choices = self.settings.chain_steps or (self.ensemble.num_blocks,)
        self.times = self.ensemble.times(random.choice(choices))
        self.step = 0
        # what the block that serves the current step has said there
        self.z1_hat: Tensor | None = None

    def state(self, block: int, z_1: Tensor | None = None) -> FlowState:
        for _ in range(self.step, self._step_of(block)):
            self._advance()
        return self.current

    def _step_of(self, block: int) -> int:
        """One of the steps that the block serves, or else the step into which its time falls."""
        count, steps = self.ensemble.num_blocks, len(self.times) - 1
        served = [s for s in range(steps) if block_at(self.times[s], count) == block]
        return random.choice(served) if served else block * steps // count

    def _advance(self) -> None:
        """The Euler step of the block that serves the current one."""
        t, t_next = self.times[self.step : self.step + 2]
        if self.z1_hat is None:
            with without_gradient():
                block = block_at(t, self.ensemble.num_blocks)
                self.z1_hat = self.ensemble.predict(block, self.current, self.features).z1_hat
        goal = self.blurred(self.z1_hat, t_next)
        self.current = self.ensemble.advance(self.current, goal, t, t_next)
        self.step, self.z1_hat = self.step + 1, None

    def visited(self, block: int, z1_hat: Tensor) -> None:
        if block_at(self.times[self.step], self.ensemble.num_blocks) == block:
            self.z1_hat = z1_hat.detach()


TRAINING_STATES: dict[str, type[TrainingStates]] = {
    "interpolated": InterpolatedStates,
    "chain": ChainStates,
}


StatesMaker = Callable[[StateSettings, FlowEnsemble, Tensor, object], TrainingStates]


def make_states(settings: StateSettings, *args, **kwargs) -> TrainingStates:
    """The training states of one iteration; arguments as of `TrainingStates`."""
    return TRAINING_STATES[settings.kind](settings, *args, **kwargs)
