"""The steps of a detector are one graph for torch.compile, and TEST.COMPILE compiles them."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from packaging.version import Version
from torch._inductor.exc import InvalidCxxCompiler

from flowdet.config.errors import ConfigError
from flowdet.detection.compiled_steps import compiled_steps, run_steps
from tests.detection.tiny import batch, tiny_cfg, tiny_model


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.14"),
    reason="torch 2.10 splits the graph where a context manager of autocast ends",
)
@torch.no_grad()
def test_steps_and_stability_are_one_graph():
    model = tiny_model(STABILITY_SAMPLES=2, NUM_BLOCKS=1, NUM_STEPS=2).eval()
    inputs = model, model.encode(batch()), model.initial_noise(2)
    # with `fullgraph`, anything that would split the graph is an error; this backend needs no
    # C++ compiler
    compiled = torch.compile(run_steps, backend="eager", fullgraph=True)
    for values, expected in zip(compiled(*inputs), run_steps(*inputs), strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)


@pytest.fixture
def calls(monkeypatch):
    """The models of the calls of the compiled steps. They are compiled without C++."""
    seen, compiler = [], torch.compile

    def compile_eagerly(function):
        compiled = compiler(function, backend="eager")

        def call(model, *args):
            seen.append(model)
            return compiled(model, *args)

        return call

    compiled_steps.cache_clear()
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    yield seen
    compiled_steps.cache_clear()


def compiled_model(**keys):
    cfg = tiny_cfg(STABILITY_SAMPLES=2, NUM_BLOCKS=1, NUM_STEPS=2, **keys)
    cfg.TEST.COMPILE = True
    torch.manual_seed(0)
    return build_model(cfg).eval()


def assert_same(results, expected):
    for one, other in zip(results, expected, strict=True):
        one, other = one["instances"], other["instances"]
        torch.testing.assert_close(
            one.pred_boxes.tensor, other.pred_boxes.tensor, atol=0.01, rtol=0
        )
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)


def test_compiled_steps_give_the_same_detections(calls):
    model = compiled_model()
    model.compile_steps = False
    expected = model(batch())
    assert not calls
    model.compile_steps = True
    assert_same(model(batch()), expected)
    assert calls == [model]
    # the weights of a copy are its own
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.heads.box.bias.add_(1)
    changed = other(batch())[0]["instances"].pred_boxes.tensor
    assert (changed - expected[0]["instances"].pred_boxes.tensor).abs().max() > 1
    assert_same(model(batch()), expected)
    assert calls == [model, other, model]


def test_a_trajectory_and_an_early_exit_are_not_compiled(calls):
    model = compiled_model()
    results = model.inference(batch(), trajectory=True)
    assert len(results[0]["trajectory"]) == 2
    compiled_model(EARLY_EXIT=0.01)(batch())
    assert not calls


def test_a_missing_compiler_is_an_error_of_one_line(monkeypatch):
    def backend(*_):
        raise InvalidCxxCompiler

    compiled = torch.compile(run_steps, backend=backend)
    monkeypatch.setattr("flowdet.detection.compiled_steps.compiled_steps", lambda: compiled)
    with pytest.raises(ConfigError, match=r"TEST.COMPILE is True.* no working C\+\+ compiler"):
        compiled_model()(batch())
