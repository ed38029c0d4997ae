"""Inference modes: how the blocks predict the estimate `z1_hat` of an Euler step (3.4, A.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from flowdet.flow.ensemble import FlowEnsemble
from flowdet.flow.state import FlowState
from flowdet.flow.time_intervals import block_at
from flowdet.flow.training_states import StateSettings


@dataclass(frozen=True)
class Step:
    """One Euler step.

    Attributes:
        t, t_next: time before and after the step.
        block: index (from 0) of the block, for modes that use a single one.
    """

    t: float
    t_next: float
    block: int = 0


@dataclass(frozen=True)
class InferenceMode:
    """How an inference mode takes its Euler steps.

    Attributes:
        predict: `predict(ensemble, state, features, step)` returns the estimate `z1_hat`
            [B, ..., d] toward which the step moves.
        parameter: the parameter of `InferencePlan` that the mode uses: `steps`, `block`, or "" for
            none.
        start_blocks: `start_blocks(plan, num_blocks)` returns the blocks that are evaluated at
            t = 0; None if that is only block 0.
    """

    predict: Callable[[FlowEnsemble, FlowState, object, Step], Tensor]
    parameter: str = "steps"
    start_blocks: Callable[[InferencePlan, int], Sequence[int]] | None = None

    @property
    def has_steps(self) -> bool:
        """Whether the user chooses the number of steps; otherwise it is 1."""
        return self.parameter == "steps"


# the inference modes by name
INFERENCE_MODES: dict[str, InferenceMode] = {}


def register_mode(
    name: str,
    parameter: str = "steps",
    start_blocks: Callable[[InferencePlan, int], Sequence[int]] | None = None,
) -> Callable:
    """Returns a decorator that registers a function as the `predict` of a new inference mode.

    Args:
        name: name of the mode.
        parameter, start_blocks: see `InferenceMode`.

    Raises:
        ValueError: a mode of this name exists.
    """

    def register(predict: Callable) -> Callable:
        if name in INFERENCE_MODES:
            raise ValueError(f"an inference mode {name!r} is already registered")
        INFERENCE_MODES[name] = InferenceMode(predict, parameter, start_blocks)
        return predict

    return register


def _all_blocks(plan: InferencePlan, num_blocks: int) -> Sequence[int]:
    return range(num_blocks)


@register_mode("single_step", "block", lambda plan, num_blocks: [plan.block])
def _single_step(ensemble: FlowEnsemble, state: FlowState, features: object, step: Step) -> Tensor:
    """One Euler step from t = 0 to t = 1 with one block (eq. 26)."""
    return ensemble.predict(step.block, state, features).z1_hat


@register_mode("ensemble", "", _all_blocks)
@register_mode("multi_step_ensemble", "steps", _all_blocks)
def _mean_of_all(ensemble: FlowEnsemble, state: FlowState, features: object, step: Step) -> Tensor:
    """Every Euler step uses the mean estimate of all blocks (eq. 27-28)."""
    return ensemble.mean_estimate(state, features)


@register_mode("multi_step")
def _block_of_the_interval(
    ensemble: FlowEnsemble, state: FlowState, features: object, step: Step
) -> Tensor:
    """Every Euler step uses the block that serves its time (eq. 24-25)."""
    block = block_at(step.t, ensemble.num_blocks)
    return ensemble.predict(block, state, features).z1_hat


class InferencePlan(NamedTuple):
    """An inference mode with its parameters; see `flowdet.flow.solve`.

    Attributes:
        mode: a name in `INFERENCE_MODES`.
        num_steps: number of Euler steps, for the multi-step modes.
        block: index (from 0) of the block, for `single_step`.
    """

    mode: str
    num_steps: int = 1
    block: int = 0

    @property
    def name(self) -> str:
        """The mode and its parameter, such as `ensemble`, `single_step-0` or `multi_step-4`."""
        suffixes = {"steps": f"-{self.num_steps}", "block": f"-{self.block}"}
        return self.mode + suffixes.get(INFERENCE_MODES[self.mode].parameter, "")

    @classmethod
    def parse(cls, name: str) -> InferencePlan:
        """Returns the plan whose `name` is given.

        Raises:
            ValueError: it is not the name of a plan.
        """
        mode, dash, number = name.partition("-")
        kind = INFERENCE_MODES.get(mode)
        has_number = kind is not None and bool(kind.parameter)
        if kind is None or (bool(dash), number.isdecimal()) != (has_number, has_number):
            forms = [f"{m}-{k.parameter.upper()}".rstrip("-") for m, k in INFERENCE_MODES.items()]
            raise ValueError(f"{name!r} is not an inference mode: use one of {', '.join(forms)}")
        if not kind.parameter:
            return cls(mode)
        return cls(mode, int(number)) if kind.has_steps else cls(mode, block=int(number))

    def check(self, num_blocks: int) -> None:
        """Checks the plan for a model of `num_blocks` blocks.

        Raises:
            ValueError: unknown mode, fewer than one step, or no such block. The message lists the
                valid values.
        """
        if self.mode not in INFERENCE_MODES:
            raise ValueError(
                f"unknown inference mode {self.mode!r} (INFERENCE_MODE): use one of "
                f"{', '.join(INFERENCE_MODES)}"
            )
        if self.num_steps < 1:
            raise ValueError(
                "the number of inference steps (NUM_STEPS) must be at least 1, got "
                f"{self.num_steps}"
            )
        if not 0 <= self.block < num_blocks:
            raise ValueError(
                f"there is no block {self.block} (SINGLE_STEP_BLOCK): blocks are 0 to "
                f"{num_blocks - 1}"
            )

    def untrained_blocks(self, states: StateSettings, num_blocks: int) -> list[int]:
        """Returns the blocks that this plan evaluates at t = 0 but that are never trained there."""
        start_blocks = INFERENCE_MODES[self.mode].start_blocks
        blocks = start_blocks(self, num_blocks) if start_blocks else []
        return [block for block in blocks if not states.trains_at_start(block, num_blocks)]


@dataclass(frozen=True)
class InferenceSettings:
    """How a model runs at inference.

    Attributes:
        plan: the inference mode with its parameters.
        noise_seed: seed of z_0.
        early_exit: an image takes no more steps once its result changes by at most this much. 0 is
            off.

    Raises:
        ValueError: negative `early_exit`.
    """

    plan: InferencePlan
    noise_seed: int = 0
    early_exit: float = 0.0

    def __post_init__(self):
        if self.early_exit < 0:
            raise ValueError(f"EARLY_EXIT must not be negative, got {self.early_exit}")
