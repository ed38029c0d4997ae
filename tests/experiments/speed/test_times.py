"""Rows of the measurements of times, with small detectors."""

import pytest
import torch
from torch import nn

from flowdet.experiments.speed import loader, peers
from flowdet.experiments.speed.inference import PLANS, inference_rows
from flowdet.experiments.speed.profile import measured_parts, parts_of, profile_rows
from flowdet.experiments.speed.setup import bench_config, build_detector, ratio, spread, with_size
from flowdet.experiments.speed.throughput import throughput_figure, throughput_rows
from flowdet.experiments.speed.training import step_rows
from tests.detection.tiny import SIZES

SMALL = [str(x) for pair in SIZES.items() for x in pair if pair[0] != "MODEL.DEVICE"]
SMALL += ["MODEL.FLOW_DET.NUM_CLASSES", "10", "MODEL.WEIGHTS", ""]


def small_cfg(name="digits_flow"):
    return with_size(bench_config(name, SMALL), 64)


def of(rows, **columns):
    return [row for row in rows if columns.items() <= row.items()]


def test_a_spread_has_median_and_quartiles():
    assert spread([4.0, 1.0, 2.0, 3.0, 10.0]) == {
        **{"mean": 4.0, "std": 3.536, "median": 3.0},
        **{"low": 2.0, "high": 4.0, "n": 5},
    }
    assert spread([7.0])["low"] == spread([7.0])["high"] == 7.0
    assert spread([7.0])["std"] is None


def test_a_ratio_is_computed_for_each_round():
    """The second round ran on a machine that was ten times slower."""
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])["median"] == 2.0
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_inference_is_relative_to_the_backbone():
    rows = inference_rows(small_cfg(), [1, 2], 2)
    ratios = of(rows, metric="inference_ratio_to_backbone")
    assert [(row["plan"], row["batch_size"]) for row in ratios] == [
        (plan, size) for size in (1, 2) for plan in PLANS
    ]
    steps = {row["plan"]: (row["mode"], row["num_steps"]) for row in ratios}
    assert steps["single_step"] == ("single_step", 1)
    assert steps["8 steps"] == ("multi_step", 8)
    for row in ratios:
        (time,) = of(rows, metric="ms_per_image", plan=row["plan"], batch_size=row["batch_size"])
        (backbone,) = of(
            rows, metric="ms_per_image", method="backbone", batch_size=time["batch_size"]
        )
        # a decoder takes time too
        assert row["median"] > 1 and time["low"] > backbone["low"] and row["n"] == 2


@pytest.mark.parametrize("call", ["inference", "training"])
def test_the_parts_of_a_profile_add_up(call):
    rows = profile_rows(small_cfg(), "digits_flow", [2], 2, call)
    shares = {row["function"]: row["mean"] for row in rows}
    assert sum(shares.values()) == pytest.approx(100, abs=0.1)
    assert all(0 < x < 100 for x in shares.values())
    names = {"inference": "postprocessing", "training": "gradients of the blocks"}
    assert names.pop(call) in shares and "backbone" in shares
    (of_other_call,) = names.values()
    assert of_other_call not in shares


def test_the_time_of_inner_functions_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("flowdet.experiments.speed.profile._clock", lambda: now[0])

    class Layer(nn.Module):
        def __init__(self, seconds, *inner):
            super().__init__()
            self.seconds, self.inner = seconds, nn.ModuleList(inner)

        def forward(self):
            now[0] += self.seconds
            for layer in self.inner:
                layer()

    inner = Layer(2.0)
    outer = Layer(3.0, inner, Layer(5.0), inner)
    with measured_parts({"outer": [(outer, "forward")], "inner": [(inner, "forward")]}) as seconds:
        outer()
    assert seconds == {"outer": 8.0, "inner": 4.0}
    # the functions are as before
    assert "forward" not in vars(outer) and "forward" not in vars(inner)
    outer()
    assert seconds == {"outer": 8.0, "inner": 4.0}


def test_a_profile_leaves_the_functions_as_they_were():
    before = (torch.autograd.grad, torch.Tensor.backward, torch.optim.AdamW.step)
    model = build_detector(small_cfg())
    with measured_parts(parts_of(model)):
        assert torch.autograd.grad is not before[0]
    assert (torch.autograd.grad, torch.Tensor.backward, torch.optim.AdamW.step) == before


def test_training_is_relative_to_backprop():
    cfgs = {"flow": small_cfg(), "backprop": small_cfg("digits_backprop")}
    rows = step_rows(cfgs, "digits_flow", [2], 2)
    assert [(row["method"], row["metric"]) for row in rows] == [
        ("flow", "ms_per_step"),
        ("flow", "step_time_ratio_to_backprop"),
        ("backprop", "ms_per_step"),
    ]
    assert all(row["median"] > 0 for row in rows)


def test_throughput_over_batch_and_image_size():
    rows = throughput_rows(small_cfg(), [1, 2], [64, 96], 1)
    settings = {(row["batch_size"], row["side"]) for row in rows}
    assert settings == {(1, 256), (2, 256), (1, 64), (1, 96)}
    assert {row["method"] for row in rows} == {"backbone", "single_step", "default"}
    by_batch, by_side = throughput_figure(rows).axes
    assert [list(line.get_xdata()) for line in by_batch.lines] == 3 * [[1, 2]]
    assert [list(line.get_xdata()) for line in by_side.lines] == 3 * [[64, 96, 256]]


def test_the_loader_is_relative_to_the_step(monkeypatch):
    for name, value in {"IMAGES": 4, "IMAGE_SIDE": 96, "BATCHES": 1}.items():
        monkeypatch.setattr(loader, name, value)
    words = [*SMALL, "SOLVER.IMS_PER_BATCH", "2", "MODEL.FLOW_DET.NUM_CLASSES", "0"]
    rows = loader.loader_rows(["digits_flow"], words, [0, 1], 2)
    (step,) = of(rows, method="training_step")
    for workers in (0, 1):
        (rate,) = of(rows, workers=workers, metric="images_per_second")
        (relative,) = of(rows, workers=workers, metric="loader_ratio_to_step")
        assert relative["median"] == pytest.approx(rate["median"] / step["median"], rel=1e-2)


def small_peer(device):
    model = nn.Linear(5, 3)
    return model, lambda batch: model(torch.ones(len(batch), 5))


def missing_peer(device):
    raise ImportError("No module named 'zebra'")


def test_a_peer_without_its_library_is_left_out(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"small": small_peer, "missing": missing_peer})
    notes = []
    assert peers.available_peers(["small", "missing"], notes.append) == ["small"]
    (note,) = notes
    assert "missing is left out: No module named 'zebra'" in note and "'.[bench]'" in note


def test_peers_are_relative_to_flow(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"small": small_peer})
    monkeypatch.setattr(peers, "in_own_process", lambda function, *args: function(*args))
    rows = peers.peer_rows("digits_flow", SMALL, ["small"], [1, 2], 2)
    assert of(rows, method="small", metric="parameters")[0]["mean"] == 18
    for size in (1, 2):
        (row,) = of(rows, method="small", metric="inference_ratio_to_flow", batch_size=size)
        # one matrix product
        assert row["median"] < 0.5
        for name in ("flow", "small"):
            peaks = [
                row for row in of(rows, method=name, batch_size=size) if "peak" in row["metric"]
            ]
            assert len(peaks) == 1 and peaks[0]["mean"] > 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", list(peers.PEERS))
def test_every_peer_runs(name):
    if "detr" in name:
        pytest.importorskip("transformers")
    model, detect = peers.build_peer(name, "cpu")
    batch = [{"image": torch.zeros(3, 128, 128, dtype=torch.uint8)}] * 2
    with torch.no_grad():
        result = detect(batch)
    count = len(result) if isinstance(result, list) else len(result.logits)
    assert count == 2 and not model.training
