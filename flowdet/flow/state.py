"""The state z_t that the flow carries, and the prediction of a block at it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.flow.path import expand_time


def select_rows(x: Tensor | None, index: Tensor) -> Tensor | None:
    """`x[index]`; None, and a tensor with one row for the whole batch, are returned as they are."""
    return x if x is None or len(x) == 1 else x[index]


@dataclass(frozen=True)
class FlowState:
    """The state of the flow at time t.

    Attributes:
        z: z_t, [B, ..., d].
        t: time, [B], in [0, 1).
        estimate: the previous estimate of z_1, [B, ..., d], for self-conditioned blocks.
        z_0: the noise, if a straight path from it leads here; None after a solver step.
    """

    z: Tensor
    t: Tensor
    estimate: Tensor | None = None
    z_0: Tensor | None = None

    def __getitem__(self, index: Tensor) -> FlowState:
        """The state of the batch elements `index`."""
        return FlowState(*(select_rows(x, index) for x in self._tensors()))

    def where(self, chosen: Tensor, other: FlowState) -> FlowState:
        """This state where `chosen` [B] is True, the other one elsewhere."""
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
    """Features that differ from block to block, one entry per block (topology `sequential`)."""

    def __getitem__(self, key):
        """The entry of a block for an int; for a tensor, the features of these batch elements."""
        if isinstance(key, Tensor):
            return PerBlockFeatures(x[key] for x in self)
        return super().__getitem__(key)


@dataclass(frozen=True)
class Prediction:
    """The prediction of a block: its raw output and its estimate `z1_hat` of z_1, [B, ..., d]."""

    output: Tensor
    z1_hat: Tensor
