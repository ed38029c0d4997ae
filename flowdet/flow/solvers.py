"""Inference: from noise at t = 0 to an estimate of z_1 at t = 1 (3.4, A.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble, FlowState
from flowdet.flow.path import expand_time

# whether an estimate [B, ..., d] after the one before it needs no more steps, [B]
Settled = Callable[[Tensor, Tensor], Tensor]

INFERENCE_MODES = ("single_step", "ensemble", "multi_step", "multi_step_ensemble")


class Walk(NamedTuple):
    """An inference mode with what it depends on; arguments as of `solve`."""

    mode: str
    num_steps: int = 1
    block: int = 0

    @property
    def name(self) -> str:
        """`ensemble`, `single_step-BLOCK`, `multi_step-STEPS`, `multi_step_ensemble-STEPS`."""
        if self.mode == "ensemble":
            return self.mode
        return f"{self.mode}-{self.block if self.mode == 'single_step' else self.num_steps}"

    @classmethod
    def parse(cls, name: str) -> Walk:
        """The walk of this name; raises ValueError if there is none."""
        mode, _, number = name.partition("-")
        if mode == "ensemble" and name == mode:
            return cls(mode)
        if mode not in INFERENCE_MODES or mode == "ensemble" or not number.isdecimal():
            raise ValueError(
                f"{name!r} is no inference mode: give ensemble, single_step-BLOCK, "
                "multi_step-STEPS or multi_step_ensemble-STEPS"
            )
        return cls(mode, block=int(number)) if mode == "single_step" else cls(mode, int(number))


@dataclass
class Solution:
    """The result of a solver.

    Attributes:
        z_1: the state at t = 1, [B, ..., d].
        times: t of every state, from 0 to 1 (`num_steps + 1` numbers), or to where all had settled.
        steps: that each batch element took, [B].
        states: z_t at these times; only with `trajectory=True`.
        estimates: `z1_hat` after every step (`num_steps` of them); likewise.
    """

    z_1: Tensor
    times: list[float]
    steps: Tensor
    states: list[Tensor] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)


def block_at(t: float, num_blocks: int) -> int:
    """The block, from 0, that serves time `t` in [0, 1) (eq. 24)."""
    # i / N can fall a rounding error below the border of an interval
    return min(int(num_blocks * t + 1e-6), num_blocks - 1)


def euler(
    predict: Callable[[FlowState, float], Tensor],
    ensemble: FlowEnsemble,
    state: FlowState,
    num_steps: int,
    *,
    stop_after: int | None = None,
    settled: Settled | None = None,
    trajectory: bool = False,
) -> tuple[FlowState, Solution]:
    """Explicit Euler integration on a regular grid (eq. 25).

    Args:
        predict: maps a state and its time to `z1_hat`.
        ensemble: whose `advance` makes the steps.
        state: at t = 0.
        num_steps: steps from 0 to 1.
        stop_after: make only so many of them.
        settled: asked after every step but the first. What has settled stays at its estimate,
            and if all has, no further step is made.
        trajectory: keep every state and estimate.
    """
    steps = num_steps if stop_after is None else stop_after
    times = [i / num_steps for i in range(steps + 1)]
    solution = Solution(state.z, times[:1], torch.zeros_like(state.t, dtype=torch.long))
    if trajectory:
        solution.states.append(state.z)
    before, over = None, torch.zeros_like(state.t, dtype=torch.bool)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        z1_hat = predict(state, t)
        if before is not None:
            z1_hat = torch.where(expand_time(over, z1_hat), before, z1_hat)
        solution.steps += ~over
        state = ensemble.advance(state, z1_hat, t, t_next)
        solution.times.append(t_next)
        if trajectory:
            solution.states.append(state.z)
            solution.estimates.append(z1_hat)
        if settled is None:
            continue
        if before is not None:
            over = over | settled(before, z1_hat)
        before = z1_hat
        if over.all():
            break
    solution.z_1 = state.z
    if before is not None:
        solution.z_1 = torch.where(expand_time(over, state.z), z1_hat, state.z)
    return state, solution


def check_mode(mode: str, num_steps: int, block: int, num_blocks: int) -> None:
    """Raises ValueError, saying what there is, if inference cannot run like this."""
    if mode not in INFERENCE_MODES:
        raise ValueError(f"unknown inference mode {mode!r}: use one of {INFERENCE_MODES}")
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
            `num_steps` steps with the mean of all blocks.
        num_steps: of the two multi-step modes, any number; T if None.
        block: of `single_step`, from 0.
        settled: see `euler`.
        trajectory: keep every state and estimate.

    Raises:
        ValueError: unknown mode, fewer than one step, no such block.
    """
    num_steps = ensemble.num_blocks if num_steps is None else num_steps
    check_mode(mode, num_steps, block, ensemble.num_blocks)
    if not mode.startswith("multi_step"):
        num_steps = 1

    def predict(state: FlowState, t: float) -> Tensor:
        if mode in ("ensemble", "multi_step_ensemble"):
            return ensemble.consensus(state, features)
        chosen = block if mode == "single_step" else block_at(t, ensemble.num_blocks)
        return ensemble.predict(chosen, state, features).z1_hat

    state = ensemble.initial_state(z_0)
    return euler(predict, ensemble, state, num_steps, settled=settled, trajectory=trajectory)[1]
