"""Inference: from noise at t = 0 to an estimate of z_1 at t = 1 (3.4, A.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble, FlowState, block_at
from flowdet.flow.path import expand_time

# whether an estimate [B, ..., d] after the one before it needs no more steps, [B]
Settled = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """One Euler step.

    Attributes:
        t, t_next: from where to where it goes.
        block: the block, from 0, of modes that use a single one.
    """

    t: float
    t_next: float
    block: int = 0


@dataclass(frozen=True)
class InferenceMode:
    """Where the Euler steps of an inference mode head for.

    Attributes:
        predict: `predict(ensemble, state, features, step)` is the estimate `z1_hat`
            [B, ..., d] towards which the step goes.
        chooses: what of it a user chooses: `steps`, `block` or nothing.
    """

    predict: Callable[[FlowEnsemble, FlowState, object, Step], Tensor]
    chooses: str = "steps"

    @property
    def many_steps(self) -> bool:
        """Whether the number of steps is chosen; else it is one."""
        return self.chooses == "steps"


# by name
INFERENCE_MODES: dict[str, InferenceMode] = {}


def register_mode(name: str, chooses: str = "steps") -> Callable:
    """Makes the function that it decorates the `predict` of an inference mode of this name.

    Raises:
        ValueError: the name is taken.
    """

    def register(predict: Callable) -> Callable:
        if name in INFERENCE_MODES:
            raise ValueError(f"there is an inference mode {name!r} already")
        INFERENCE_MODES[name] = InferenceMode(predict, chooses)
        return predict

    return register


@register_mode("single_step", chooses="block")
def _single_step(ensemble: FlowEnsemble, state: FlowState, features: object, step: Step) -> Tensor:
    """One block jumps to the end (eq. 26)."""
    return ensemble.predict(step.block, state, features).z1_hat


@register_mode("ensemble", chooses="")
@register_mode("multi_step_ensemble")
def _mean_of_all(ensemble: FlowEnsemble, state: FlowState, features: object, step: Step) -> Tensor:
    """Every step by the mean of all blocks (eq. 27-28)."""
    return ensemble.consensus(state, features)


@register_mode("multi_step")
def _block_of_the_interval(
    ensemble: FlowEnsemble, state: FlowState, features: object, step: Step
) -> Tensor:
    """Every step by the block that serves its time (eq. 24-25)."""
    block = block_at(step.t, ensemble.num_blocks)
    return ensemble.predict(block, state, features).z1_hat


class Walk(NamedTuple):
    """An inference mode with what it depends on; arguments as of `solve`."""

    mode: str
    num_steps: int = 1
    block: int = 0

    @property
    def name(self) -> str:
        """`ensemble`, `single_step-BLOCK`, `multi_step-STEPS`, `multi_step_ensemble-STEPS`, ..."""
        chosen = {"steps": f"-{self.num_steps}", "block": f"-{self.block}"}
        return self.mode + chosen.get(INFERENCE_MODES[self.mode].chooses, "")

    @classmethod
    def parse(cls, name: str) -> Walk:
        """The walk of this name; raises ValueError if there is none."""
        mode, dash, number = name.partition("-")
        kind = INFERENCE_MODES.get(mode)
        wanted = kind is not None and bool(kind.chooses)
        if kind is None or (bool(dash), number.isdecimal()) != (wanted, wanted):
            forms = [f"{m}-{k.chooses.upper()}".rstrip("-") for m, k in INFERENCE_MODES.items()]
            raise ValueError(f"{name!r} is no inference mode: give one of {', '.join(forms)}")
        if not kind.chooses:
            return cls(mode)
        return cls(mode, int(number)) if kind.many_steps else cls(mode, block=int(number))


@dataclass
class Solution:
    """The result of a solver.

    Attributes:
        z_1: the state at t = 1, [B, ..., d].
        times: t of every state, from 0 to 1 (`num_steps + 1` numbers), or to where all had settled.
        steps: that each batch element took, [B].
        last: from where each batch element's last step was made.
        ask: the estimate towards which these steps would have gone from another state.
        states: z_t at these times; only with `trajectory=True`.
        estimates: `z1_hat` after every step (`num_steps` of them); likewise.
    """

    z_1: Tensor
    times: list[float]
    steps: Tensor
    last: FlowState
    ask: Callable[[FlowState], Tensor] | None = None
    states: list[Tensor] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)


def euler(
    predict: Callable[[FlowState, float, float], Tensor],
    ensemble: FlowEnsemble,
    state: FlowState,
    num_steps: int,
    *,
    settled: Settled | None = None,
    trajectory: bool = False,
) -> Solution:
    """Explicit Euler integration (eq. 25) over `FlowEnsemble.times`.

    Args:
        predict: maps a state, its time and that of the next one to `z1_hat`.
        ensemble: whose `times` and `advance` make the steps.
        state: at t = 0.
        num_steps: steps from 0 to 1.
        settled: asked after every step but the first, unless another block is yet to be asked and
            this one is not done. What has settled stays at its estimate, and if all has, no further
            step is made.
        trajectory: keep every state and estimate.
    """
    times, last_block = ensemble.times(num_steps), ensemble.num_blocks - 1
    solution = Solution(state.z, times[:1], torch.zeros_like(state.t, dtype=torch.long), state)
    if trajectory:
        solution.states.append(state.z)
    held, over = None, torch.zeros_like(state.t, dtype=torch.bool)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        z1_hat = predict(state, t, t_next)
        if held is not None:
            z1_hat = torch.where(expand_time(over, z1_hat), held, z1_hat)
        solution.steps += ~over
        solution.last = state if held is None else solution.last.where(over, state)
        state = ensemble.advance(state, z1_hat, t, t_next)
        solution.times.append(t_next)
        if trajectory:
            solution.states.append(state.z)
            solution.estimates.append(z1_hat)
        # within a block's interval small steps towards one goal say nothing of the next block
        goes_on = block_at(t, last_block + 1) == block_at(t_next, last_block + 1) < last_block
        if settled is None or goes_on:
            continue
        if held is not None:
            over = over | settled(held, z1_hat)
        held = z1_hat
        if over.all():
            break
    solution.z_1 = state.z
    if held is not None:
        solution.z_1 = torch.where(expand_time(over, state.z), held, state.z)
    return solution


def _ask(
    predict: Callable, features: object, times: list[float], steps: Tensor, state: FlowState
) -> Tensor:
    """What `predict` says of a state [B, ...] in the last of each element's `steps` [B]."""
    z1_hat = torch.empty_like(state.z)
    for count in steps.unique().tolist():
        chosen = (steps == count).nonzero()[:, 0]
        found = predict(features[chosen], state[chosen], *times[count - 1 : count + 1])
        z1_hat[chosen] = found.to(z1_hat)
    return z1_hat


def check_mode(mode: str, num_steps: int, block: int, num_blocks: int) -> None:
    """Raises ValueError, saying what there is, if inference cannot run like this."""
    if mode not in INFERENCE_MODES:
        raise ValueError(f"unknown inference mode {mode!r}: use one of {tuple(INFERENCE_MODES)}")
    if num_steps < 1:
        raise ValueError(f"the number of inference steps must be at least 1, got {num_steps}")
    if not 0 <= block < num_blocks:
        raise ValueError(f"there is no block {block}: blocks are 0 to {num_blocks - 1}")


def solve(
    ensemble: FlowEnsemble,
    z_0: Tensor,
    features: object,
    mode: str = "multi_step",
    *,
    num_steps: int | None = None,
    block: int = 0,
    settled: Settled | None = None,
    trajectory: bool = False,
) -> Solution:
    """Carries noise `z_0` [B, ..., d] to an estimate of the target.

    Args:
        mode: `single_step`: one Euler step with block `block` (eq. 26); `ensemble`: one step
            with the mean of all blocks (eq. 27-28); `multi_step`: `num_steps` steps, each
            with the block that serves its time (eq. 24-25); `multi_step_ensemble`:
            `num_steps` steps with the mean of all blocks; or what `register_mode` added.
        num_steps: of the multi-step modes, any number; T if None.
        block: of `single_step`, from 0.
        settled: see `euler`.
        trajectory: keep every state and estimate.

    Raises:
        ValueError: unknown mode, fewer than one step, no such block.
    """
    num_steps = ensemble.num_blocks if num_steps is None else num_steps
    check_mode(mode, num_steps, block, ensemble.num_blocks)
    kind = INFERENCE_MODES[mode]

    def predict(features: object, state: FlowState, t: float, t_next: float) -> Tensor:
        return kind.predict(ensemble, state, features, Step(t, t_next, block))

    walk = functools.partial(predict, features)
    state = ensemble.initial_state(z_0)
    steps = num_steps if kind.many_steps else 1
    solution = euler(walk, ensemble, state, steps, settled=settled, trajectory=trajectory)
    last = solution.times[-2:]
    solution.ask = lambda state: walk(state, *last)
    if settled is not None:
        solution.ask = functools.partial(_ask, predict, features, solution.times, solution.steps)
    return solution
