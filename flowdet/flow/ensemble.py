"""T flow blocks on shared features: what training and the solvers talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowdet.flow.blocks import QueryPosition
from flowdet.flow.path import LinearPath, expand_time
from flowdet.flow.tokens import rows

PREDICTIONS = ("velocity", "target")


@dataclass(frozen=True)
class FlowState:
    """Where the transport stands.

    Attributes:
        z: z_t, [B, ..., d].
        t: time, [B], in [0, 1).
        estimate: the last estimate of z_1, [B, ..., d], for self-conditioned blocks.
        z_0: the noise from which a straight path led here; None where the solver has walked.
    """

    z: Tensor
    t: Tensor
    estimate: Tensor | None = None
    z_0: Tensor | None = None

    def __getitem__(self, index: Tensor) -> FlowState:
        """The state of the batch elements of these numbers."""
        return FlowState(*(rows(x, index) for x in self._tensors()))

    def where(self, chosen: Tensor, other: FlowState) -> FlowState:
        """This state where `chosen` [B], the other one elsewhere."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return FlowState(
            *(
                None if x is None or y is None else torch.where(expand_time(chosen, x), x, y)
                for x, y in pairs
            )
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.z, self.t, self.estimate, self.z_0


class PerBlock(tuple):
    """Features that differ from block to block, one entry each (topology `sequential`)."""

    def __getitem__(self, key):
        """A block's entry; of a tensor, the features of the batch elements of these numbers."""
        if isinstance(key, Tensor):
            return PerBlock(x[key] for x in self)
        return super().__getitem__(key)


@dataclass(frozen=True)
class Prediction:
    """What a block says about a state: its raw output and the estimate `z1_hat`, [B, ..., d]."""

    output: Tensor
    z1_hat: Tensor


def block_at(t: float, num_blocks: int) -> int:
    """The block, from 0, that serves time `t` in [0, 1) (eq. 24)."""
    # i / N can fall a rounding error below the border of an interval
    return min(int(num_blocks * t + 1e-6), num_blocks - 1)


class FlowEnsemble(nn.Module):
    """The T parallel predictors v_theta_1 .. v_theta_T (3.2.1) and what they share.

    Args:
        blocks: T modules with the signature of `flowdet.flow.blocks`; counted from 0 here.
        time_embedding: maps t [B] to codes [B, d].
        prediction: `velocity`: the output is the velocity, `z1_hat = z_t + (1 - t) output`
            (the paper, eq. 15); `target`: the output corrects the previous estimate,
            `z1_hat = estimate + output`, and the velocity follows from it.
        start: the estimate before the first step, [..., d] without batch dimension, learned
            if it is an `nn.Parameter`. Needed for `target`.
        query_position: maps the estimate (or None) to where the queries are.

    Raises:
        ValueError: no block, unknown prediction, or `target` without a start.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        time_embedding: nn.Module,
        *,
        prediction: str = "velocity",
        start: Tensor | None = None,
        query_position: Callable[[Tensor | None], QueryPosition] | None = None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if not len(self.blocks):
            raise ValueError("a flow ensemble needs at least one block")
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}: use one of {PREDICTIONS}")
        if prediction == "target" and start is None:
            raise ValueError("prediction 'target' corrects an estimate: give a start estimate")
        self.time_embedding = time_embedding
        self.prediction = prediction
        self.start = start
        self.query_position = query_position
        self.path = LinearPath()

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def initial_state(self, z_0: Tensor) -> FlowState:
        """The state at t = 0 for noise `z_0`, [B, ..., d]."""
        start = None if self.start is None else self.start.expand_as(z_0)
        return FlowState(z_0, z_0.new_zeros(z_0.shape[0]), start, z_0)

    def predict(self, block: int, state: FlowState, features: object) -> Prediction:
        """What one block (from 0) predicts at a state; `features` go to the block as they are,
        or its own entry of them if they are `PerBlock`."""
        if isinstance(features, PerBlock):
            features = features[block]
        position = self.query_position and self.query_position(state.estimate)
        code = self.time_embedding(state.t)
        output = self.blocks[block](state.z, code, features, state.estimate, position)
        if self.prediction == "target":
            return Prediction(output, state.estimate + output)
        return Prediction(output, self.path.target_of(state.z, output, state.t))

    def consensus(self, state: FlowState, features: object) -> Tensor:
        """The mean `z1_hat` of all blocks (eq. 27-28), [B, ..., d]."""
        estimates = [self.predict(k, state, features).z1_hat for k in range(self.num_blocks)]
        return torch.stack(estimates).mean(dim=0)

    def times(self, num_steps: int) -> list[float]:
        """The times between Euler steps, from 0 to 1, `num_steps + 1` numbers.

        A regular grid (eq. 25), as long as there is a block for every step. More steps of
        `velocity` make it finer; those of `target` divide the time of the last block: another one,
        asked again about an estimate that it has corrected already, would meet what it never
        learned on.
        """
        count = self.num_blocks
        if self.prediction == "velocity" or num_steps <= count:
            return [i / num_steps for i in range(num_steps + 1)]
        share = 1 / (num_steps - count + 1)
        finer = [(count - 1 + i * share) / count for i in range(1, num_steps - count + 1)]
        return [k / count for k in range(count)] + finer + [1.0]

    def advance(self, state: FlowState, z1_hat: Tensor, t: float, t_next: float) -> FlowState:
        """The Euler step of the whole batch from `t` to `t_next` towards `z1_hat`.

        The next step corrects `z1_hat`. But where the last block has several steps the estimate
        goes there as z does, by t = 1, so that the more of them there are, the less each changes.
        """
        z, estimate = self.path.step(state.z, z1_hat, t, t_next), z1_hat
        if self.prediction == "target" and block_at(t, self.num_blocks) == self.num_blocks - 1:
            estimate = self.path.step(state.estimate, z1_hat, t, t_next)
        return FlowState(z, torch.full_like(state.t, t_next), estimate)

    def flow_loss(self, prediction: Prediction, state: FlowState, z_1: Tensor) -> Tensor:
        """The flow-matching loss of a prediction, a scalar (eq. 14, mean over elements).

        For `velocity` the mean squared error to the velocity that leads from the state to
        `z_1`; for `target` that of `z1_hat` to `z_1`, which is the same up to the factor
        `(1 - t)^2` and stays finite near t = 1.
        """
        if self.prediction == "target":
            return F.mse_loss(prediction.z1_hat.float(), z_1.float())
        if state.z_0 is not None:
            velocity = z_1 - state.z_0
        else:
            velocity = (z_1 - state.z) / (1 - expand_time(state.t, state.z))
        return F.mse_loss(prediction.output.float(), velocity.float())
