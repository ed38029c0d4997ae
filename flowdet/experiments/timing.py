"""Times several functions in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch


def interleaved_seconds(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Returns the seconds of each function in every round; in a round each function runs once.

    Args:
        calls: the functions.
        rounds: the number of measured rounds.
        warm_up: the number of rounds before them. They are not measured, because the first rounds
            of a process are slower.
        clock: the seconds so far. `time.process_time` counts the CPU seconds of this process, in
            which other processes have little part; the time of a GPU is not in them.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(warm_up + rounds):
        for call, durations in zip(calls, seconds):
            start = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                durations.append(clock() - start)
    return seconds
