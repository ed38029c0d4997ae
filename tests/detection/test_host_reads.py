"""The losses of a training step never wait for the device, except for the matching and the log."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowdet.detection import matcher
from tests.detection.tiny import batch, tiny_model

READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"}


class HostReads(TorchDispatchMode):
    """Lists the operations whose result the host has to wait for, on any device.

    An index with a mask is one of them: the host allocates the result, so it has to know its size.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in READS or any(x is not None and x.dtype == torch.bool for x in indices):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_the_mode_sees_reads():
    with HostReads() as reads:
        x = torch.arange(4.0)
        x[x > 1], x[x > 1].sum().item()
    assert reads.found == ["index", "index", "_local_scalar_dense"]


@pytest.mark.parametrize(
    "file, keys, matchings",
    [
        ("digits_flow.yaml", {"MATCHING": "shared"}, 1),
        ("digits_flow.yaml", {"MATCHING": "per_block"}, 3),
        ("digits_flow.yaml", {"MATCHING": "shared", "LEARN_AT_START": True}, 1),
        ("digits_flow.yaml", {"MATCHING": "shared", "TRAINING_STATES": "interpolated"}, 1),
        ("digits_backprop.yaml", {}, 3),
    ],
)
def test_losses_read_nothing_but_the_costs_of_the_matching(monkeypatch, file, keys, matchings):
    keys = {"DENOISING_QUERIES": 4, "IGNORE_IOU": 0.5, **keys}
    model = tiny_model(file=file, **keys).train()
    calls = []

    def solve(costs, counts):
        calls.append(costs.shape)
        return torch.full(costs.shape[:2], -1).scatter_(1, torch.arange(2)[:, None], 0)

    monkeypatch.setattr(matcher, "solve_assignment", solve)
    tokens, targets = model.encode(batch()), model.prepare_targets(batch())
    with HostReads() as reads:
        sum(model.losses(tokens, targets).values()).backward()
    assert reads.found == [] and len(calls) == matchings
