"""Peak memory of a process."""

import os
import resource
from pathlib import Path

import pytest
import torch

from flowdet.experiments.speed import memory
from tests.experiments.speed.test_times import SMALL


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has this file")
def test_the_peak_is_that_of_the_system():
    block = torch.ones(2 * 10**7)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    peak, now = memory._peak_resident_bytes(), pages * resource.getpagesize()
    assert peak >= 0.95 * now > 10**7
    # the two counts of the system differ by some pages
    assert peak <= 1.5 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del block


def test_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "PRELOADED", [])
    assert memory.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(MemoryError, match="killed"):
        memory.in_own_process(os._exit, 9)


def test_rows_of_every_setting(monkeypatch):
    monkeypatch.setattr(memory, "in_own_process", lambda function, *args: function(*args))
    methods = ["flow_joint", "backprop_checkpointed"]
    rows = list(memory.memory_rows("digits_flow", SMALL, methods, [1, 2], [1]))
    assert [(row["method"], row["num_blocks"]) for row in rows] == [
        (method, count) for method in methods for count in (1, 2)
    ]
    metric = "peak_allocated_bytes" if torch.cuda.is_available() else "peak_resident_bytes"
    assert all(row["metric"] == metric and row["mean"] > 10**7 for row in rows)
