"""The states that blocks are trained on, against what the solver visits."""

import pytest
import torch

from flowdet.flow import StateSettings, make_training_states, solve
from flowdet.flow.time_intervals import block_at
from tests.flow.toy import DIM, mlps

FEATURES = torch.randn(2, 5)


@pytest.fixture
def ensemble():
    return mlps(prediction="target")


def visit(states, ensemble, block, z_1=None):
    """The training samples of a block; its estimates are handed back."""
    samples = []

    def evaluate(sample):
        samples.append(sample)
        return ensemble.predict(block, sample.state, states.features).z1_hat

    states.visit(block, evaluate, z_1)
    return samples


def test_interpolated_states_lie_on_the_path(ensemble):
    z_0, z_1 = torch.randn(2, DIM), torch.randn(2, DIM)
    states = make_training_states(StateSettings("interpolated"), ensemble, z_0, FEATURES)
    (sample,) = visit(states, ensemble, 1, z_1)
    t = sample.state.t[:, None]
    assert 0 <= t.min() and t.max() < 1 and t[0] != t[1]
    torch.testing.assert_close(sample.state.z, (1 - t) * z_0 + t * z_1)
    assert torch.equal(sample.state.z_0, z_0)


def test_a_rollout_has_the_states_of_multi_step_inference(ensemble):
    z_0 = torch.randn(2, DIM)
    solution = solve(ensemble, z_0, FEATURES, "multi_step", trajectory=True)
    states = make_training_states(StateSettings("rollout"), ensemble, z_0, FEATURES)
    for k in range(3):
        (sample,) = visit(states, ensemble, k)
        torch.testing.assert_close(sample.state.z, solution.states[k])
        assert sample.state.t.tolist() == pytest.approx([k / 3] * 2)


def test_a_rollout_includes_the_steps_of_blocks_that_are_not_trained(ensemble):
    z_0 = torch.randn(2, DIM)
    solution = solve(ensemble, z_0, FEATURES, "multi_step", trajectory=True)
    states = make_training_states(StateSettings("rollout"), ensemble, z_0, FEATURES)
    (sample,) = visit(states, ensemble, 2)
    torch.testing.assert_close(sample.state.z, solution.states[2])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 8])
def test_a_rollout_of_n_steps_has_the_states_of_inference_with_n_steps(ensemble, num_steps):
    z_0 = torch.randn(2, DIM)
    solution = solve(ensemble, z_0, FEATURES, "multi_step", num_steps=num_steps, trajectory=True)
    settings, trained = StateSettings("rollout", rollout_steps=(num_steps,)), {}
    times = ensemble.times(num_steps)
    for _ in range(20):
        states = make_training_states(settings, ensemble, z_0, FEATURES)
        for k in range(3):
            (sample,) = visit(states, ensemble, k)
            step = times.index(pytest.approx(float(sample.state.t[0])))
            torch.testing.assert_close(sample.state.z, solution.states[step], atol=1e-5, rtol=0)
            trained.setdefault(k, set()).add(step)
    # a block is trained on all steps that it serves, or on the one its interval falls into
    for k in range(3):
        served = {s for s in range(num_steps) if block_at(times[s], 3) == k}
        assert trained[k] == (served or {k * num_steps // 3})
        assert (0 in trained[k]) == settings.trains_at_start(k, 3)


def test_rollouts_draw_their_length(ensemble):
    settings = StateSettings("rollout", rollout_steps=(1, 2, 6))
    lengths = {
        len(make_training_states(settings, ensemble, torch.randn(2, DIM), FEATURES).times) - 1
        for _ in range(40)
    }
    assert lengths == {1, 2, 6}
    with pytest.raises(ValueError, match="ROLLOUT_STEPS must be at least 1"):
        StateSettings("rollout", rollout_steps=(4, 0))


def test_state_noise_perturbs_the_estimates_of_a_rollout(ensemble):
    z_0, z1_hat = torch.randn(4000, DIM), torch.randn(4000, DIM) * 3
    features = torch.randn(4000, 5)
    settings = StateSettings("rollout", state_noise=0.5)
    states = make_training_states(settings, ensemble, z_0, features)
    states.visit(0, lambda sample: z1_hat)
    (sample,) = visit(states, ensemble, 1)
    noise = sample.state.estimate - z1_hat
    # 0.5 of a standard deviation of 3, times 1 - t = 2/3
    assert noise.std() == pytest.approx(1.0, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), z1_hat.flatten()]))[0, 1]) < 0.05
    with pytest.raises(ValueError, match="STATE_NOISE must not be negative, got -1"):
        StateSettings("rollout", state_noise=-1)


def test_no_gradient_flows_through_a_rollout(ensemble):
    states = make_training_states(StateSettings("rollout"), ensemble, torch.randn(2, DIM), FEATURES)
    visit(states, ensemble, 0)
    (sample,) = visit(states, ensemble, 1)
    assert not sample.state.z.requires_grad
    assert not sample.state.estimate.requires_grad


def test_the_learned_start_gets_its_gradient(ensemble):
    states = make_training_states(StateSettings("rollout"), ensemble, torch.randn(2, DIM), FEATURES)
    (sample,) = visit(states, ensemble, 0)
    ensemble.predict(0, sample.state, FEATURES).z1_hat.sum().backward()
    assert ensemble.start.grad.abs().sum() > 0


@pytest.mark.parametrize("others_train_features", [True, False])
@pytest.mark.parametrize("kind", ["interpolated", "rollout"])
def test_learn_at_start_adds_samples_at_t_0(ensemble, kind, others_train_features):
    settings = StateSettings(kind, True, others_train_features)
    count = 0
    for _ in range(10):
        states = make_training_states(settings, ensemble, torch.randn(2, DIM), FEATURES)
        for k in range(3):
            start, *others = visit(states, ensemble, k, torch.randn(2, DIM))
            assert start.state is states.initial and start.trains_features
            assert start.is_start == bool(others)
            for sample in others:
                assert sample.state.t.min() > 0 and not sample.is_start
                assert sample.trains_features == others_train_features
            count += len(others)
    # block 0 of a rollout is at t = 0 anyway
    assert count == 10 * (2 if kind == "rollout" else 3)


@pytest.mark.parametrize("order", [(1, 0), (0, 0), (2, 1)])
def test_blocks_are_visited_in_ascending_order(ensemble, order):
    states = make_training_states(StateSettings("rollout"), ensemble, torch.randn(2, DIM), FEATURES)
    first, second = order
    visit(states, ensemble, first)
    with pytest.raises(RuntimeError, match=f"block {second} after block {first}.*ascending"):
        visit(states, ensemble, second)


@pytest.mark.parametrize(
    "settings, blocks",
    [
        (StateSettings("rollout"), [0]),
        (StateSettings("rollout", learn_at_start=True), [0, 1, 2, 3]),
        (StateSettings("rollout", rollout_steps=(1, 4)), [0, 1, 2, 3]),
        (StateSettings("rollout", rollout_steps=(2, 4)), [0, 1]),
        (StateSettings("interpolated"), [0, 1, 2, 3]),
    ],
)
def test_which_blocks_are_trained_at_t_0(settings, blocks):
    assert [k for k in range(4) if settings.trains_at_start(k, 4)] == blocks


def test_unknown_states():
    with pytest.raises(ValueError, match="unknown training states 'dream'.*rollout"):
        StateSettings("dream")
