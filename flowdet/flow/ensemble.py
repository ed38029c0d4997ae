"""FlowEnsemble: T flow blocks on shared features, as training and the solvers call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowdet.flow.path import LinearPath
from flowdet.flow.state import FlowState, PerBlockFeatures, Prediction, PreparedFeatures
from flowdet.flow.time_intervals import block_at, step_times

PREDICTIONS = ("velocity", "target")


class FlowEnsemble(nn.Module):
    """The T parallel predictors v_theta_1 .. v_theta_T (3.2.1) and the parts they share.

    Args:
        blocks: T modules called as `block(z_t, time_embedding, features, estimate, position)`.
            Their indices start at 0 (in the paper at 1).
        time_embedding: maps t [B] to [B, d].
        prediction: `velocity`: the output is the velocity, and `z1_hat = z_t + (1 - t) output`
            (the paper, eq. 15); `target`: the output corrects the previous estimate,
            `z1_hat = estimate + output`, and the velocity follows from `z1_hat`.
        start: the estimate before the first step, [..., d] without batch dimension. It is learned
            if it is an `nn.Parameter`. `target` needs it.
        query_position: maps the estimate (or None) to the argument `position` of the blocks.

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
        query_position: Callable[[Tensor | None], object] | None = None,
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
        """Returns the state at t = 0 for noise `z_0`, [B, ..., d]."""
        start = None if self.start is None else self.start.expand_as(z_0)
        return FlowState(z_0, z_0.new_zeros(z_0.shape[0]), start, z_0)

    def predict(self, block: int, state: FlowState, features: object) -> Prediction:
        """Evaluates block `block` (from 0) at a state.

        The block gets `features` unchanged, or its own entry if they are `PerBlockFeatures` or
        `PreparedFeatures`. Only with the latter may the state have copies.
        """
        if isinstance(features, PerBlockFeatures):
            features = features[block]
        elif isinstance(features, PreparedFeatures):
            rows = state.z.shape[0]
            features = features.of(block, self.blocks[block], rows, state.copies)
        return self._evaluate(self.blocks[block], state, features)

    def predict_in_parallel(
        self, blocks: Sequence[int], states: Sequence[FlowState], features: object
    ) -> list[Prediction]:
        """Evaluates several blocks, each at its own state, as one batched computation.

        It is faster than `predict` for one block after another where small operations leave the
        processor idle. It stacks the parameters of the blocks, and all activations are in memory at
        the same time.

        Args:
            blocks: indices of the blocks, from 0.
            states: the state of each of these blocks; all have the same shapes.
            features: what all blocks get.

        Raises:
            ValueError: a block has buffers.
        """
        template = self.blocks[blocks[0]]
        if any(True for k in blocks for _ in self.blocks[k].buffers()):
            raise ValueError(
                f"{type(template).__name__} has buffers, so its blocks cannot be evaluated as one "
                "batched computation: set BLOCK_EXECUTION sequential"
            )
        named = [dict(self.blocks[k].named_parameters()) for k in blocks]
        parameters = {name: torch.stack([x[name] for x in named]) for name in named[0]}
        stacked = [torch.stack([getattr(x, name) for x in states]) for name in ("z", "t")]
        if states[0].estimate is not None:
            stacked.append(torch.stack([x.estimate for x in states]))

        def evaluate(parameters: dict[str, Tensor], *state: Tensor) -> tuple[Tensor, Tensor]:
            def block(*arguments: object) -> Tensor:
                return torch.func.functional_call(template, parameters, arguments)

            prediction = self._evaluate(block, FlowState(*state), features)
            return prediction.output, prediction.z1_hat

        # "different": every block has its own dropout
        with _batched_attention(states[0].z.device):
            results = torch.vmap(evaluate, randomness="different")(parameters, *stacked)
        return [Prediction(*x) for x in zip(*results, strict=True)]

    def _evaluate(
        self, block: Callable[..., Tensor], state: FlowState, features: object
    ) -> Prediction:
        position = self.query_position and self.query_position(state.estimate)
        time_embedding = self.time_embedding(state.t)
        output = block(state.z, time_embedding, features, state.estimate, position)
        if self.prediction == "target":
            return Prediction(output, state.estimate + output)
        return Prediction(output, self.path.target_of(state.z, output, state.t))

    def mean_estimate(self, state: FlowState, features: object) -> Tensor:
        """Returns the mean `z1_hat` of all blocks (eq. 27-28), [B, ..., d]."""
        estimates = [self.predict(k, state, features).z1_hat for k in range(self.num_blocks)]
        return torch.stack(estimates).mean(dim=0)

    def times(self, num_steps: int) -> list[float]:
        """Returns the time grid of `num_steps` Euler steps, see `step_times`."""
        return step_times(num_steps, self.num_blocks, self.prediction == "velocity")

    def advance(self, state: FlowState, z1_hat: Tensor, t: float, t_next: float) -> FlowState:
        """Takes the Euler step of the whole batch from `t` to `t_next` toward `z1_hat`.

        `z1_hat` [B, ..., d] becomes the estimate of the next state. There is one exception: for
        `target`, the estimate stays the same until the last step in the interval of the last
        block, which can have several steps. So the last block corrects the estimate of the block
        before it (with one block, the start) in all of them, as in training, and never its own.
        """
        z, estimate = self.path.step(state.z, z1_hat, t, t_next), z1_hat
        in_last_interval = block_at(t, self.num_blocks) == self.num_blocks - 1 and t_next < 1
        if self.prediction == "target" and in_last_interval:
            estimate = state.estimate
        return FlowState(z, torch.full_like(state.t, t_next), estimate)


def _batched_attention(device: torch.device) -> AbstractContextManager:
    """Returns a context in which attention can be batched over blocks.

    The fused attention of a CPU cannot: `vmap` would loop over the blocks, and warn.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
