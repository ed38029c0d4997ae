"""BLOCK_EXECUTION parallel: a step is that of one block after another."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from flowdet.detection.denoising import Denoising
from flowdet.flow import FlowEnsemble, FlowState, NonFiniteError, TimeEmbedding
from tests.detection.tiny import batch, tiny_model

# an operation that vmap computes for one block after another
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")


def train_step(execution, seed=0, **keys):
    """Returns losses, gradients by parameter, and the statistics of a training step."""
    keys = {"TRAINING_STATES": "interpolated"} | keys
    model = tiny_model(BLOCK_EXECUTION=execution, **keys).train()
    torch.manual_seed(seed)
    with EventStorage() as storage:
        losses = model(batch())
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return losses, gradients, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"PREDICTION": "velocity", "SELF_CONDITIONING": False, "LEARN_TARGET": True},
        {"LEARN_AT_START": True, "MATCHING": "per_block"},
        {"LEARN_AT_START": True, "STATES_TRAIN_FEATURES": False},
        {"SCHEDULE": "alternate", "ITERS_PER_EPOCH": 1},
        {"TRAINING_STATES": "rollout", "LEARN_AT_START": True},
        {"TRAINING_STATES": "rollout", "LEARN_AT_START": True, "ROLLOUT_STEPS": [1]},
        {"TRAINING_STATES": "rollout", "LEARN_AT_START": True, "STATES_TRAIN_FEATURES": False},
        {"TRAINING_STATES": "rollout", "LEARN_AT_START": True, "MATCHING": "per_block"},
        {"DENOISING_QUERIES": 4, "PROPOSAL_QUERIES": 2},
        {"TRAINING_STATES": "rollout", "LEARN_AT_START": True, "DENOISING_QUERIES": 4},
    ],
)
def test_the_step_is_that_of_one_block_after_another(keys, monkeypatch):
    extend = Denoising.extend

    def extend_with_the_same_noise(*args):
        # otherwise both draw it for the blocks in another order
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return extend(*args)

    monkeypatch.setattr(Denoising, "extend", extend_with_the_same_noise)
    parallel, sequential = (train_step(x, **keys) for x in ("parallel", "sequential"))
    torch.testing.assert_close(parallel[0], sequential[0], rtol=1e-4, atol=1e-5)
    assert parallel[2].keys() == sequential[2].keys()
    for name, value in parallel[2].items():
        assert value == pytest.approx(sequential[2][name], rel=1e-3, abs=1e-4), name
    for name, gradient in sequential[1].items():
        assert (gradient is None) == (parallel[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(parallel[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("states", ["interpolated", "rollout"])
def test_denoising_queries_and_dropout(states):
    keys = {"LEARN_AT_START": True, "DENOISING_QUERIES": 4, "DROPOUT": 0.5}
    keys["TRAINING_STATES"] = states
    losses, gradients, statistics = train_step("parallel", **keys)
    assert all(loss.isfinite() for loss in losses.values())
    assert {f"block{k}/denoising_matched_iou" for k in range(3)} <= statistics.keys()
    for k in range(3):
        assert gradients[f"flow.blocks.{k}.output.weight"].abs().sum() > 0


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_an_error_names_the_block_that_diverged(execution):
    keys = {"TRAINING_STATES": "interpolated", "MATCHING": "per_block"}
    model = tiny_model(BLOCK_EXECUTION=execution, **keys).train()
    nn.init.constant_(model.flow.blocks[1].output.bias, float("nan"))
    with pytest.raises(NonFiniteError) as caught:
        model(batch())
    assert caught.value.block == 1


def test_every_block_has_its_own_dropout():
    ensemble = FlowEnsemble([Dropped() for _ in range(2)], TimeEmbedding(4))
    state = FlowState(torch.ones(3, 50), torch.zeros(3))
    first, second = ensemble.predict_in_parallel([0, 1], [state, state], None)
    assert not torch.equal(first.output, second.output)


class Dropped(nn.Dropout):
    def forward(self, z_t, *others):
        return super().forward(z_t)


def test_rollouts_alone_are_refused():
    with pytest.raises(ValueError, match="BLOCK_EXECUTION parallel needs .* LEARN_AT_START"):
        tiny_model(TRAINING_STATES="rollout", BLOCK_EXECUTION="parallel")


def test_blocks_with_buffers_are_refused():
    ensemble = FlowEnsemble([nn.BatchNorm1d(4) for _ in range(2)], TimeEmbedding(4))
    state = FlowState(torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="BatchNorm1d has buffers"):
        ensemble.predict_in_parallel([0, 1], [state, state], None)
