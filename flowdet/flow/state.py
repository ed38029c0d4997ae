"""The state z_t of the flow, and the prediction that a block makes from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        copies: number of states of each batch element, which follow each other. If it is above 1,
            B is the number of batch elements times `copies`.
    """

    z: Tensor
    t: Tensor
    estimate: Tensor | None = None
    z_0: Tensor | None = None
    copies: int = 1

    def __getitem__(self, index: Tensor) -> FlowState:
        """Returns the state of the rows `index`."""
        return FlowState(*(select_rows(x, index) for x in self._tensors()), self.copies)

    def repeat(self, copies: int) -> FlowState:
        """Returns a state with so many copies of each row."""
        repeated = (None if x is None else _repeat(x, copies) for x in self._tensors())
        return FlowState(*repeated, copies)

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


def _repeat(x: Tensor, count: int) -> Tensor:
    return x[:, None].expand(-1, count, *x.shape[1:]).flatten(0, 1)


class PerBlockFeatures(tuple):
    """Features that differ between blocks, one entry per block (topology `sequential`)."""

    def __getitem__(self, key):
        """Returns the entry of block `key` for an int; for a tensor, the batch elements `key`."""
        if isinstance(key, Tensor):
            return PerBlockFeatures(x[key] for x in self)
        return super().__getitem__(key)


class PreparedFeatures:
    """Features, with what each block computes from them alone, which is the same in every step.

    A block may have a method `prepare(features)`. The block then gets its result instead of the
    features. It is computed when the block is called for the first time.

    Args:
        features: the features of B batch elements; `PerBlockFeatures` if they differ between
            blocks.
    """

    def __init__(self, features: object):
        self.features = features
        self._prepared: dict[int, object] = {}

    def of(self, index: int, block: nn.Module, rows: int | torch.SymInt, copies: int) -> object:
        """Returns what block number `index` gets; for the others see `features_for_copies`."""
        features = self.features
        features = features[index] if isinstance(features, PerBlockFeatures) else features
        if not hasattr(block, "prepare"):
            return features_for_copies(block, features, rows, copies)
        if index not in self._prepared:
            self._prepared[index] = block.prepare(features)
        return self._prepared[index]

    def __getitem__(self, index: Tensor) -> PreparedFeatures:
        """Returns those of the batch elements `index`."""
        chosen = PreparedFeatures(self.features[index])
        chosen._prepared = {k: x[index] for k, x in self._prepared.items()}
        return chosen


def features_for_copies(
    block: nn.Module, features: object, rows: int | torch.SymInt, copies: int
) -> object:
    """Returns the features of B batch elements for a block that gets several states of each.

    A block with a method `prepare` takes them as they are; for other blocks they are copied.

    Args:
        block: the block.
        features: the features.
        rows: B times `copies`.
        copies: number of states of each batch element, which follow each other.
    """
    if copies == 1 or hasattr(block, "prepare"):
        return features
    return features[torch.arange(rows) // copies]


@dataclass(frozen=True)
class Prediction:
    """The prediction of a block.

    Attributes:
        output: the output of the block, [B, ..., d].
        z1_hat: the estimate of z_1 that follows from it, [B, ..., d].
    """

    output: Tensor
    z1_hat: Tensor
