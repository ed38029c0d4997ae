"""The Euler solver: from noise at t = 0 to an estimate of z_1 at t = 1 (3.4, A.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble
from flowdet.flow.modes import INFERENCE_MODES, InferencePlan, Step
from flowdet.flow.path import expand_time
from flowdet.flow.state import FlowState, PreparedFeatures
from flowdet.flow.time_intervals import block_at

# `converged(before, after)` compares two consecutive estimates, [B, ..., d]. It returns [B], True
# for the batch elements that need no more steps.
Converged = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Solution:
    """The result of a solver.

    Attributes:
        z_1: the state at t = 1, [B, ..., d]; for batch elements that converged before, their last
            estimate.
        times: t of every state, from 0 to 1 (`num_steps + 1` numbers). If all batch elements
            converge before, it ends there.
        steps: number of steps of each batch element, [B].
        last_state: the state before the last step of each batch element.
        reevaluate: maps another state before the last step, which may have copies, to the estimate
            `z1_hat` of that step.
        states: z_t at `times`, each [B, ..., d]; empty without `trajectory=True`.
        estimates: `z1_hat` of every step, each [B, ..., d]; empty without `trajectory=True`.
    """

    z_1: Tensor
    times: list[float]
    steps: Tensor
    last_state: FlowState
    reevaluate: Callable[[FlowState], Tensor] | None = None
    states: list[Tensor] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)


def euler(
    predict: Callable[[object, FlowState, float, float], Tensor],
    ensemble: FlowEnsemble,
    state: FlowState,
    features: object,
    num_steps: int,
    *,
    converged: Converged | None = None,
    trajectory: bool = False,
) -> Solution:
    """Explicit Euler integration (eq. 25) over `FlowEnsemble.times`.

    Args:
        predict: maps features, a state, its time and the next time to `z1_hat`.
        ensemble: provides the time grid (`times`) and the step (`advance`).
        state: the state at t = 0.
        features: see `solve`.
        num_steps: number of steps from 0 to 1.
        converged: compares the estimates of consecutive steps. A batch element that has converged
            keeps its estimate, and `predict` is no longer called for it. When all have converged,
            the integration stops. If a block other than the last serves several steps, only the
            last of these is compared.
        trajectory: keep every state and estimate.
    """
    times, last_block = ensemble.times(num_steps), ensemble.num_blocks - 1
    solution = Solution(state.z, times[:1], torch.zeros_like(state.t, dtype=torch.long), state)
    if trajectory:
        solution.states.append(state.z)
    kept, active = None, _ActiveElements(features, torch.zeros_like(state.t, dtype=torch.bool))
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        z1_hat, done = active.estimates(predict, state, kept, t, t_next), active.done
        solution.steps += ~done
        solution.last_state = state if kept is None else solution.last_state.where(done, state)
        state = ensemble.advance(state, z1_hat, t, t_next)
        solution.times.append(t_next)
        if trajectory:
            solution.states.append(state.z)
            solution.estimates.append(z1_hat)
        # the next block may change much, even if this block's steps change little
        same_block = block_at(t, last_block + 1) == block_at(t_next, last_block + 1) < last_block
        if converged is None or same_block:
            continue
        if kept is not None and not active.remove(converged(kept, z1_hat)):
            kept = z1_hat
            break
        kept = z1_hat
    solution.z_1 = state.z
    if kept is not None:
        solution.z_1 = torch.where(expand_time(active.done, state.z), kept, state.z)
    return solution


class _ActiveElements:
    """The batch elements that still take steps, with their features.

    Args:
        features: the features of all batch elements.
        done: which of them take no steps, [B]; none at first.
    """

    def __init__(self, features: object, done: Tensor):
        self.all_features = self.features = features
        self.done = done
        # the indices of the elements; None for all
        self.index: Tensor | None = None

    def estimates(
        self, predict: Callable, state: FlowState, kept: Tensor | None, t: float, t_next: float
    ) -> Tensor:
        """Returns the estimates of a step; elements that take no steps keep theirs, `kept`."""
        if self.index is None:
            return predict(self.features, state, t, t_next)
        moved = predict(self.features, state[self.index], t, t_next)
        return kept.index_copy(0, self.index, moved.to(kept))

    def remove(self, converged: Tensor) -> bool:
        """Removes the elements that have converged [B]; returns whether there are any left."""
        done = self.done | converged
        if torch.equal(done, self.done):
            return True
        self.done, self.index = done, (~done).nonzero()[:, 0]
        if not len(self.index):
            return False
        self.features = self.all_features[self.index]
        return True


def _reevaluate(
    predict: Callable, features: object, times: list[float], steps: Tensor, state: FlowState
) -> Tensor:
    """Re-runs the last step of each batch element from another state.

    Args:
        predict: maps features, a state, its time and the next time to `z1_hat`.
        features: see `solve`.
        times: the time grid.
        steps: number of steps that each batch element took, [B].
        state: the other state before the last step; it may have copies.
    """
    z1_hat = torch.empty_like(state.z)
    rows = torch.arange(len(state.z), device=steps.device).view(-1, state.copies)
    for count in steps.unique().tolist():
        chosen = (steps == count).nonzero()[:, 0]
        of_chosen = rows[chosen].flatten()
        predicted = predict(features[chosen], state[of_chosen], *times[count - 1 : count + 1])
        z1_hat[of_chosen] = predicted.to(z1_hat)
    return z1_hat


def solve(
    ensemble: FlowEnsemble,
    z_0: Tensor,
    features: object,
    mode: str = "multi_step",
    *,
    num_steps: int | None = None,
    block: int = 0,
    converged: Converged | None = None,
    trajectory: bool = False,
) -> Solution:
    """Integrates from noise to an estimate of the target z_1.

    Args:
        ensemble: the T blocks.
        z_0: noise, [B, ..., d].
        features: the features that the blocks get. With `converged` they must support indexing by
            batch elements, `features[index]`.
        mode: `single_step`: one Euler step with block `block` (eq. 26); `ensemble`: one step with
            the mean estimate of all blocks (eq. 27-28); `multi_step`: `num_steps` steps, each with
            the block that serves its time (eq. 24-25); `multi_step_ensemble`: `num_steps` steps,
            each with the mean estimate of all blocks; or a mode added by `register_mode`.
        num_steps: number of Euler steps of the multi-step modes, at least 1; T if None.
        block: index (from 0) of the block of `single_step`.
        converged: see `euler`.
        trajectory: keep every state and estimate.

    Raises:
        ValueError: unknown mode, fewer than one step, or no such block.
    """
    num_steps = ensemble.num_blocks if num_steps is None else num_steps
    InferencePlan(mode, num_steps, block).check(ensemble.num_blocks)
    kind = INFERENCE_MODES[mode]
    features = PreparedFeatures(features)

    def predict(features: object, state: FlowState, t: float, t_next: float) -> Tensor:
        return kind.predict(ensemble, state, features, Step(t, t_next, block))

    state = ensemble.initial_state(z_0)
    steps = num_steps if kind.has_steps else 1
    solution = euler(
        predict, ensemble, state, features, steps, converged=converged, trajectory=trajectory
    )
    last = solution.times[-2:]
    solution.reevaluate = lambda state: predict(features, state, *last)
    if converged is not None:
        solution.reevaluate = functools.partial(
            _reevaluate, predict, features, solution.times, solution.steps
        )
    return solution
