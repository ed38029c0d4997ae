"""Which blocks are trained in an iteration, and their block-local losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowdet.flow.block_local import BlockLoss, HalfPrecisionScale, block_local_losses

SCHEDULES = ("joint", "alternate")


def blocks_to_train(schedule: str, num_blocks: int, epochs: int) -> list[int]:
    """Returns the blocks that are trained in an iteration.

    Args:
        schedule: `joint`: all blocks in every iteration; `alternate`: one block per epoch, in turn
            (Algorithm 1).
        num_blocks: T.
        epochs: number of complete epochs so far.

    Raises:
        ValueError: unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown SCHEDULE {schedule!r}: use one of {SCHEDULES}")
    return list(range(num_blocks)) if schedule == "joint" else [epochs % num_blocks]


class LocalTraining(nn.Module):
    """Trains T blocks by a schedule.

    It has no weights, but a state that checkpoints contain, so that a resumed run continues
    exactly: the number of iterations (for `alternate`) and the loss scale of float16.

    Args:
        num_blocks: T.
        schedule: `joint` or `alternate`, see `blocks_to_train`.
        iters_per_epoch: iterations per epoch, for `alternate`.

    Attributes:
        active_blocks: the blocks that were trained in the last iteration.

    Raises:
        ValueError: unknown schedule.
    """

    def __init__(self, num_blocks: int, schedule: str, iters_per_epoch: int):
        super().__init__()
        blocks_to_train(schedule, num_blocks, 0)
        self.num_blocks = num_blocks
        self.schedule = schedule
        self.iters_per_epoch = iters_per_epoch
        self.active_blocks: list[int] = []
        self.half_scale = HalfPrecisionScale()
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    def next_blocks(self) -> list[int]:
        """Counts an iteration, and returns the blocks that are trained in it.

        Raises:
            ValueError: `alternate` with fewer than one iteration per epoch.
        """
        self.active_blocks = blocks_to_train(self.schedule, self.num_blocks, self._epochs())
        self.iterations += 1
        return self.active_blocks

    def losses(
        self, block_loss: BlockLoss, features: Sequence[Tensor], parameters: Sequence[nn.Parameter]
    ) -> dict[str, Tensor]:
        """Returns the losses of the next iteration's blocks, summed; see `block_local_losses`.

        Raises:
            ValueError: see `next_blocks`.
        """
        half = _autocasts_to_half(self.iterations.device)
        return block_local_losses(
            block_loss,
            self.next_blocks(),
            features,
            parameters,
            half_scale=self.half_scale if half else None,
        )

    def get_extra_state(self) -> Tensor:
        """Returns the loss scale and the number of iterations since the last overflow."""
        return torch.tensor([self.half_scale.value, self.half_scale.good], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        value, good = state.tolist()
        self.half_scale.value, self.half_scale.good = value, int(good)

    def _epochs(self) -> int:
        """Returns the number of complete epochs so far; 0 for `joint`, which ignores it."""
        if self.schedule != "alternate":
            return 0
        if self.iters_per_epoch < 1:
            raise ValueError(
                "SCHEDULE alternate needs ITERS_PER_EPOCH (flowdet.engine.resolve_config sets it "
                "from the dataset)"
            )
        return int(self.iterations) // self.iters_per_epoch


def _autocasts_to_half(device: torch.device) -> bool:
    if not torch.is_autocast_enabled(device.type):
        return False
    return torch.get_autocast_dtype(device.type) == torch.float16
