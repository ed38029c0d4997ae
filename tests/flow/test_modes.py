"""Inference modes: their names, checks and registration."""

import pytest
import torch

from flowdet.flow import (
    INFERENCE_MODES,
    InferencePlan,
    InferenceSettings,
    StateSettings,
    register_mode,
    solve,
)
from tests.flow.toy import DIM, constants

Z_0 = torch.zeros(2, DIM)


@pytest.mark.parametrize(
    "plan, name",
    [
        (InferencePlan("ensemble"), "ensemble"),
        (InferencePlan("single_step", block=2), "single_step-2"),
        (InferencePlan("multi_step", 4), "multi_step-4"),
        (InferencePlan("multi_step_ensemble", 16), "multi_step_ensemble-16"),
    ],
)
def test_plans_have_names(plan, name):
    assert plan.name == name
    assert InferencePlan.parse(name) == plan


@pytest.mark.parametrize(
    "name",
    ["", "walk-2", "multi_step", "ensemble-2", "ensemble-", "multi_step--1", "single_step-x", "-2"],
)
def test_a_name_of_no_plan(name):
    with pytest.raises(
        ValueError, match=f"'{name}' is not an inference mode: use one of single_step"
    ):
        InferencePlan.parse(name)


@pytest.mark.parametrize(
    "plan, message",
    [
        (InferencePlan("magic"), "unknown inference mode 'magic'.*ensemble"),
        (InferencePlan("multi_step", 0), "NUM_STEPS.*at least 1, got 0"),
        (InferencePlan("single_step", block=3), "no block 3.*blocks are 0 to 2"),
        (InferencePlan("single_step", block=-1), "no block -1"),
    ],
)
def test_impossible_plans(plan, message):
    with pytest.raises(ValueError, match=message):
        plan.check(3)


def test_negative_early_exit():
    with pytest.raises(ValueError, match="EARLY_EXIT must not be negative, got -0.1"):
        InferenceSettings(InferencePlan("ensemble"), early_exit=-0.1)


@pytest.mark.parametrize(
    "plan, blocks",
    [
        (InferencePlan("multi_step", 3), []),
        (InferencePlan("single_step", block=0), []),
        (InferencePlan("single_step", block=2), [2]),
        (InferencePlan("ensemble"), [1, 2]),
        (InferencePlan("multi_step_ensemble", 3), [1, 2]),
    ],
)
def test_blocks_that_were_never_trained_at_t_0(plan, blocks):
    assert plan.untrained_blocks(StateSettings("rollout"), 3) == blocks
    assert plan.untrained_blocks(StateSettings("rollout", learn_at_start=True), 3) == []
    assert plan.untrained_blocks(StateSettings("interpolated"), 3) == []


@pytest.fixture
def half_way():
    """A registered mode: every step goes half as far as the estimate of the first block."""

    @register_mode("half_way")
    def predict(ensemble, state, features, step):
        z1_hat = ensemble.predict(0, state, features).z1_hat
        return state.z + (z1_hat - state.z) / 2

    yield "half_way"
    del INFERENCE_MODES["half_way"]


def test_a_registered_mode(half_way):
    z_1 = solve(constants(2.0, 5.0), Z_0, None, half_way, num_steps=2).z_1
    # half of the velocity 2
    torch.testing.assert_close(z_1, torch.full_like(Z_0, 1.0))
    plan = InferencePlan.parse("half_way-3")
    assert plan == InferencePlan(half_way, 3) and plan.name == "half_way-3"
    assert plan.untrained_blocks(StateSettings("rollout"), 2) == []
    with pytest.raises(ValueError, match="half_way.* already"):
        register_mode(half_way)(None)
