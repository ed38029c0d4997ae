"""A model's side of block-local training: whose turn it is, and the losses of those blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowdet.flow.local import BlockLoss, HalfPrecisionScale, block_local_losses, blocks_to_train


class LocalTraining(nn.Module):
    """Trains T blocks by a schedule. It has no weights, but its state is saved with them: the
    count of iterations, so that `alternate` goes on where it was after a resume, and the loss
    scale of float16.

    Args:
        num_blocks: T.
        schedule: `joint` or `alternate`, see `blocks_to_train`.
        pass_length: iterations in one pass over the data, for `alternate`.

    Attributes:
        learning: the blocks that learned in the last iteration.

    Raises:
        ValueError: unknown schedule.
    """

    def __init__(self, num_blocks: int, schedule: str, pass_length: int):
        super().__init__()
        blocks_to_train(schedule, num_blocks, 0)
        self.num_blocks = num_blocks
        self.schedule = schedule
        self.pass_length = pass_length
        self.learning: list[int] = []
        self.half_scale = HalfPrecisionScale()
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    def losses(
        self, block_loss: BlockLoss, features: Sequence[Tensor], parameters: Sequence[nn.Parameter]
    ) -> dict[str, Tensor]:
        """The summed losses of the blocks whose turn it is; arguments as of
        `block_local_losses`."""
        self.learning = blocks_to_train(self.schedule, self.num_blocks, self._passes())
        half = _autocasts_to_half(self.iterations.device)
        losses = block_local_losses(
            block_loss,
            self.learning,
            features,
            parameters,
            half_scale=self.half_scale if half else None,
        )
        self.iterations += 1
        return losses

    def get_extra_state(self) -> Tensor:
        """The loss scale, and how many iterations it has held."""
        return torch.tensor([self.half_scale.value, self.half_scale.good], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        value, good = state.tolist()
        self.half_scale.value, self.half_scale.good = value, int(good)

    def _passes(self) -> int:
        """Complete passes over the data so far; 0 where it does not matter."""
        if self.schedule != "alternate":
            return 0
        if self.pass_length < 1:
            raise ValueError(
                "SCHEDULE alternate needs PASS_LENGTH, the iterations in a pass over the data "
                "(flowdet.engine.resolve_config takes it from the dataset)"
            )
        return int(self.iterations) // self.pass_length


def _autocasts_to_half(device: torch.device) -> bool:
    if not torch.is_autocast_enabled(device.type):
        return False
    return torch.get_autocast_dtype(device.type) == torch.float16
