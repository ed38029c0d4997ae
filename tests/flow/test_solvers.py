"""The Euler solver against closed-form solutions."""

from dataclasses import replace

import pytest
import torch

from flowdet.flow import FlowEnsemble, solve
from tests.flow.toy import DIM, IdentityTime, TimesBlock, constants, mlps

Z_0 = torch.zeros(2, DIM)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
def test_constant_velocity_is_exact_in_any_number_of_steps(num_steps):
    solution = solve(constants(2.0), Z_0, None, "multi_step", num_steps=num_steps)
    assert torch.allclose(solution.z_1, torch.full_like(Z_0, 2.0), atol=1e-6)


def test_euler_converges_to_the_analytic_solution():
    ensemble = FlowEnsemble([TimesBlock()], IdentityTime())
    errors = [
        (solve(ensemble, Z_0, None, "multi_step", num_steps=n).z_1 - 1).abs().max().item()
        for n in (10, 20, 40)
    ]
    # the left Riemann sum of 3 t^2 with n steps: error 3 / 2n - 1 / 2n^2
    assert errors == pytest.approx([1.5 / n - 0.5 / n**2 for n in (10, 20, 40)], abs=1e-4)


def test_modes_by_hand():
    ensemble = constants(1.0, 2.0, 6.0)
    assert solve(ensemble, Z_0, None, "single_step").z_1[0, 0] == 1
    assert solve(ensemble, Z_0, None, "single_step", block=2).z_1[0, 0] == 6
    assert solve(ensemble, Z_0, None, "ensemble").z_1[0, 0] == 3
    # T steps by default: each block makes a third of the path with its own velocity
    assert solve(ensemble, Z_0, None, "multi_step").z_1[0, 0] == pytest.approx(3, abs=1e-5)
    # 2 steps: t = 0 belongs to block 0, t = 1/2 to block 1
    z_1 = solve(ensemble, Z_0, None, "multi_step", num_steps=2).z_1
    assert z_1[0, 0] == pytest.approx(0.5 * 1 + 0.5 * 2, abs=1e-5)
    z_1 = solve(ensemble, Z_0, None, "multi_step_ensemble", num_steps=7).z_1
    assert z_1[0, 0] == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
def test_target_prediction_ends_on_the_last_estimate(num_steps):
    ensemble = mlps(prediction="target")
    features = torch.randn(2, 5)
    solution = solve(ensemble, torch.randn(2, DIM), features, num_steps=num_steps, trajectory=True)
    assert torch.equal(solution.z_1, solution.estimates[-1])
    assert torch.isfinite(solution.z_1).all()


def test_trajectory():
    solution = solve(constants(2.0), Z_0, None, "multi_step", num_steps=4, trajectory=True)
    assert solution.times == [0, 0.25, 0.5, 0.75, 1]
    assert [float(z[0, 0]) for z in solution.states] == [0, 0.5, 1, 1.5, 2]
    assert [float(z[0, 0]) for z in solution.estimates] == [2, 2, 2, 2]
    assert not solve(constants(2.0), Z_0, None).states


def test_batch_is_two_singles():
    ensemble, z_0, features = mlps(), torch.randn(2, DIM), torch.randn(2, 5)
    for mode in ("single_step", "ensemble", "multi_step", "multi_step_ensemble"):
        both = solve(ensemble, z_0, features, mode).z_1
        one = [solve(ensemble, z_0[i : i + 1], features[i : i + 1], mode).z_1 for i in (0, 1)]
        torch.testing.assert_close(both, torch.cat(one), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"mode": "magic"}, "unknown inference mode 'magic'"),
        ({"num_steps": 0}, "at least 1, got 0"),
        ({"mode": "single_step", "block": 3}, "no block 3.*blocks are 0 to 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        solve(constants(1.0), Z_0, None, **kwargs)


class Halving(torch.nn.Module):
    """Corrects the estimate by half of its distance to the features."""

    def forward(self, z_t, time_embedding, features, estimate=None, position=None):
        return (features - estimate) / 2


class Goal(torch.nn.Module):
    """Corrects the estimate to a constant."""

    def __init__(self, goal):
        super().__init__()
        self.goal = goal

    def forward(self, z_t, time_embedding, features, estimate=None, position=None):
        return self.goal - estimate


def targets(*blocks):
    return FlowEnsemble(blocks, IdentityTime(), prediction="target", start=torch.zeros(DIM))


def test_more_steps_than_blocks_are_those_of_the_last_block():
    ensemble = targets(Goal(2.0), Goal(6.0))
    assert ensemble.times(1) == [0, 1] and ensemble.times(2) == [0, 0.5, 1]
    assert ensemble.times(6) == [0, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    solution = solve(ensemble, Z_0, None, num_steps=4, trajectory=True)
    assert [float(x[0, 0]) for x in solution.estimates] == [2, 6, 6, 6]
    # each step covers its share of the remaining path to its goal
    expected = [Z_0 + (2 - Z_0) / 2]
    for share in (1 / 3, 1 / 2, 1):
        expected.append(expected[-1] + share * (6 - expected[-1]))
    for state, value in zip(solution.states[1:], expected, strict=True):
        torch.testing.assert_close(state, value)


class Step(torch.nn.Module):
    """Corrects every estimate by 1, whatever it is."""

    def forward(self, z_t, time_embedding, features, estimate=None, position=None):
        return torch.ones_like(estimate)


@pytest.mark.parametrize("num_steps", [3, 4, 8, 16])
def test_further_steps_of_the_last_block_do_not_add_up(num_steps):
    """The last block corrects the estimate of the block before it, in all of its steps."""
    solution = solve(targets(Step(), Step(), Step()), Z_0, None, num_steps=num_steps)
    torch.testing.assert_close(solution.z_1, torch.full_like(Z_0, 3.0))
    torch.testing.assert_close(solution.last_state.estimate, torch.full_like(Z_0, 2.0))


def test_more_steps_of_velocity_make_the_grid_finer():
    ensemble = FlowEnsemble([Goal(2.0), Goal(6.0)], IdentityTime())
    assert ensemble.times(4) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("num_steps", [2, 3, 8, 16])
def test_equal_estimates_of_one_block_do_not_end_the_integration(num_steps):
    """Within the first block's interval all estimates are equal; the second block comes later."""
    ensemble = targets(Goal(2.0), Goal(6.0))
    solution = solve(ensemble, Z_0, None, num_steps=num_steps, converged=nearly_equal)
    torch.testing.assert_close(solution.z_1, torch.full_like(Z_0, 6.0))


def nearly_equal(before, after):
    """Converged if the estimates differ by less than 0.2."""
    return (after - before).abs().amax(dim=-1) < 0.2


def test_converged_elements_leave_the_batch():
    """The blocks are no longer called for them."""
    ensemble, sizes = targets(*[Halving()] * 10), []
    for block in ensemble.blocks[:1]:
        block.register_forward_hook(lambda block, inputs, output: sizes.append(len(output)))
    goal = torch.tensor([[2.0], [0.2], [0.1]]).expand(3, DIM)
    solution = solve(ensemble, torch.zeros(3, DIM), goal, num_steps=10, converged=nearly_equal)
    assert solution.steps.tolist() == [4, 2, 2] and sizes == [3, 3, 1, 1]


@pytest.mark.parametrize("mode", ["multi_step", "multi_step_ensemble"])
def test_a_converged_element_takes_no_more_steps(mode):
    """The estimates of the two elements change by 1, 1/2, 1/4, ... and by 0.1, 0.05, ..."""

    blocks = targets(*[Halving()] * 10)
    goal = torch.tensor([[2.0], [0.2]]).expand(2, DIM)
    run = dict(mode=mode, num_steps=10, trajectory=True)
    both = solve(blocks, Z_0, goal, converged=nearly_equal, **run)
    # 1, 1.5, 1.75, 1.875 and 0.1, 0.15: the first ones that differ by less than 0.2 from the last
    assert both.steps.tolist() == [4, 2]
    torch.testing.assert_close(both.z_1[:, 0], torch.tensor([1.875, 0.15]))
    assert len(both.estimates) == 4 and len(both.states) == len(both.times) == 5
    for i in range(2):
        alone = solve(blocks, Z_0[i : i + 1], goal[i : i + 1], converged=nearly_equal, **run)
        close = dict(atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.z_1, both.z_1[i : i + 1], **close)
        torch.testing.assert_close(alone.last_state.z, both.last_state.z[i : i + 1], **close)
        assert alone.last_state.t == both.last_state.t[i]
        perturbed = [
            replace(x.last_state, estimate=x.last_state.estimate + 0.5) for x in (alone, both)
        ]
        again = alone.reevaluate(perturbed[0]), both.reevaluate(perturbed[1])[i : i + 1]
        torch.testing.assert_close(*again, **close)
    whole = solve(blocks, Z_0, goal, **run)
    assert whole.steps.tolist() == [10, 10] and len(whole.times) == 11


def test_an_element_that_never_converges_takes_all_steps():
    ensemble = constants(1.0, 2.0, 6.0)
    never = solve(ensemble, Z_0, None, converged=lambda a, b: torch.tensor([False, False]))
    torch.testing.assert_close(never.z_1, solve(ensemble, Z_0, None).z_1)
