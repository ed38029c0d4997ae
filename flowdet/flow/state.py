"""The state z_t of the flow, and the prediction that a block makes from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.flow.path import expand_time


def select_rows(x: Tensor | None, index: Tensor) -> Tensor | None:
    """Returns `x[index]`; None, and a tensor with one row for the whole batch, stay unchanged."""
    return x if x is None or len(x) == 1 else x[index]


@dataclass(frozen=True)
class FlowState:
    """The state of the flow at time t.

    Attributes:
        z: z_t, [B, ..., d].
        t: time, [B], in [0, 1].
        estimate: the previous estimate of z_1, [B, ..., d]; None before the first step if there is
            no initial estimate.
        z_0: the noise at t = 0, if the state lies on the straight path from it; None after an Euler
            step.
    """

    z: Tensor
    t: Tensor
    estimate: Tensor | None = None
    z_0: Tensor | None = None

    def __getitem__(self, index: Tensor) -> FlowState:
        """Returns the state of the batch elements `index`."""
        return FlowState(*(select_rows(x, index) for x in self._tensors()))

    def where(self, chosen: Tensor, other: FlowState) -> FlowState:
        """Returns this state where `chosen` [B] is True, and the other state elsewhere."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return FlowState(
            *(
                None if x is None or y is None else torch.where(expand_time(chosen, x), x, y)
                for x, y in pairs
            )
        )

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.z, self.t, self.estimate, self.z_0


class PerBlockFeatures(tuple):
    """Features that differ between blocks, one entry per block (topology `sequential`)."""

    def __getitem__(self, key):
        """Returns the entry of block `key` for an int; for a tensor, the batch elements `key`."""
        if isinstance(key, Tensor):
            return PerBlockFeatures(x[key] for x in self)
        return super().__getitem__(key)


@dataclass(frozen=True)
class Prediction:
    """The prediction of a block.

    Attributes:
        output: the output of the block, [B, ..., d].
        z1_hat: the estimate of z_1 that follows from it, [B, ..., d].
    """

    output: Tensor
    z1_hat: Tensor
