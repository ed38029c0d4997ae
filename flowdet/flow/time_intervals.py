"""The time intervals of the blocks, and the time grid of the Euler steps."""

from __future__ import annotations


def block_at(t: float, num_blocks: int) -> int:
    """Returns the index (from 0) of the block that serves time `t` (eq. 24).

    Block k serves [k / T, (k + 1) / T); the last block also serves t = 1.
    """
    # i / N can lie a rounding error below the start of an interval
    return min(int(num_blocks * t + 1e-6), num_blocks - 1)


def step_times(num_steps: int, num_blocks: int, regular: bool) -> list[float]:
    """Returns the time grid of the Euler steps: `num_steps + 1` numbers from 0 to 1.

    With at most one step per block the grid is regular (eq. 25).

    Args:
        num_steps: number of Euler steps.
        num_blocks: T.
        regular: the grid is also regular with more than T steps. If not, the further steps divide
            only the interval of the last block. On a regular grid, an earlier block would be
            evaluated on an estimate that it has already corrected, which never happens in training
            with `target`.
    """
    if regular or num_steps <= num_blocks:
        return [i / num_steps for i in range(num_steps + 1)]
    extra = num_steps - num_blocks
    share = 1 / (extra + 1)
    last_interval = [(num_blocks - 1 + i * share) / num_blocks for i in range(1, extra + 1)]
    return [k / num_blocks for k in range(num_blocks)] + last_interval + [1.0]
