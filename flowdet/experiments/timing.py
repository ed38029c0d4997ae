"""Times several functions in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch


def interleaved_seconds(
    calls: Sequence[Callable[[], object]], rounds: int, warm_up: int
) -> list[list[float]]:
    """Returns the seconds of each function in every round; in a round each function runs once.

    Args:
        calls: the functions.
        rounds: the number of measured rounds.
        warm_up: the number of rounds before them. They are not measured, because the first rounds
            of a process are slower.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(warm_up + rounds):
        for call, durations in zip(calls, seconds):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                durations.append(time.perf_counter() - start)
    return seconds
