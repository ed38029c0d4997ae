"""The time intervals of the blocks, and the times of the Euler steps."""

from __future__ import annotations


def block_at(t: float, num_blocks: int) -> int:
    """The block, from 0, that serves time `t` in [0, 1) (eq. 24)."""
    # i / N can be a rounding error below the border of an interval
    return min(int(num_blocks * t + 1e-6), num_blocks - 1)


def step_times(num_steps: int, num_blocks: int, regular: bool) -> list[float]:
    """The times of the Euler steps, from 0 to 1, `num_steps + 1` numbers.

    With at most one step per block they are a regular grid (eq. 25).

    Args:
        num_steps: Euler steps.
        num_blocks: T.
        regular: more than T steps also make a regular grid. If not, they divide the interval of the
            last block: an earlier block that is evaluated twice would get an estimate that it has
            corrected already, which never happens in training.
    """
    if regular or num_steps <= num_blocks:
        return [i / num_steps for i in range(num_steps + 1)]
    extra = num_steps - num_blocks
    share = 1 / (extra + 1)
    last_interval = [(num_blocks - 1 + i * share) / num_blocks for i in range(1, extra + 1)]
    return [k / num_blocks for k in range(num_blocks)] + last_interval + [1.0]
