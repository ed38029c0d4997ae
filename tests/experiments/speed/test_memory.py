"""Peak memory of a process."""

import os

import pytest
import torch

from flowdet.experiments.speed.memory import in_own_process, peak_bytes, training_peak
from tests.experiments.speed.test_times import SMALL

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU's memory is measured")


def peaks_around_an_allocation():
    """The peak before and after 160 MB were allocated and freed."""
    (before,) = peak_bytes().values()
    torch.zeros(4 * 10**7).add_(1)
    (after,) = peak_bytes().values()
    return before, after


def test_a_process_of_its_own():
    assert in_own_process(os.getpid) != os.getpid()
    before, after = in_own_process(peaks_around_an_allocation)
    assert after == pytest.approx(before + 1.6e8, rel=0.1)
    with pytest.raises(MemoryError, match="killed"):
        in_own_process(os._exit, 9)
    peak = in_own_process(training_peak, "digits_flow", SMALL, "flow_joint", 2, 1)
    assert list(peak) == ["peak_resident_bytes"] and peak["peak_resident_bytes"] > 10**8
