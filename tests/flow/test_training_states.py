import pytest
import torch

from flowdet.flow import StateSettings, make_training_states, solve
from flowdet.flow.ensemble import block_at
from tests.flow.toy import DIM, mlps

FEATURES = torch.randn(2, 5)


@pytest.fixture
def ensemble():
    return mlps(prediction="target")


def test_interpolated_states_lie_on_the_path(ensemble):
    z_0, z_1 = torch.randn(2, DIM), torch.randn(2, DIM)
    state = make_training_states(StateSettings("interpolated"), ensemble, z_0, FEATURES).state(
        1, z_1
    )
    t = state.t[:, None]
    assert torch.allclose(state.z, (1 - t) * z_0 + t * z_1)
    assert torch.equal(state.z_0, z_0)


def test_chain_visits_what_multi_step_inference_visits(ensemble):
    z_0 = torch.randn(2, DIM)
    walked = solve(ensemble, z_0, FEATURES, "multi_step", trajectory=True)
    states = make_training_states(StateSettings("rollout"), ensemble, z_0, FEATURES)
    for k in range(3):
        state = states.state(k)
        assert torch.allclose(state.z, walked.states[k])
        assert state.t.tolist() == pytest.approx([k / 3] * 2)
        states.visited(k, ensemble.predict(k, state, FEATURES).z1_hat)


def test_chain_walks_over_blocks_that_do_not_learn(ensemble):
    z_0 = torch.randn(2, DIM)
    walked = solve(ensemble, z_0, FEATURES, "multi_step", trajectory=True)
    state = make_training_states(StateSettings("rollout"), ensemble, z_0, FEATURES).state(2)
    assert torch.allclose(state.z, walked.states[2])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 8])
def test_a_chain_of_any_length_visits_what_inference_of_that_length_visits(ensemble, num_steps):
    z_0 = torch.randn(2, DIM)
    walked = solve(ensemble, z_0, FEATURES, "multi_step", num_steps=num_steps, trajectory=True)
    settings, learned = StateSettings("rollout", rollout_steps=(num_steps,)), {}
    times = ensemble.times(num_steps)
    for _ in range(20):
        states = make_training_states(settings, ensemble, z_0, FEATURES)
        for k in range(3):
            state = states.state(k)
            step = times.index(pytest.approx(float(state.t[0])))
            assert torch.allclose(state.z, walked.states[step], atol=1e-6)
            learned.setdefault(k, set()).add(step)
            states.visited(k, ensemble.predict(k, state, FEATURES).z1_hat)
    # every block learns on each of the steps that it serves, and on another one if it has none
    for k in range(3):
        served = {s for s in range(num_steps) if block_at(times[s], 3) == k}
        assert learned[k] == (served or {k * num_steps // 3})


def test_chains_draw_their_length(ensemble):
    settings = StateSettings("rollout", rollout_steps=(1, 2, 6))
    lengths = {
        len(make_training_states(settings, ensemble, torch.randn(2, DIM), FEATURES).times) - 1
        for _ in range(40)
    }
    assert lengths == {1, 2, 6}
    with pytest.raises(ValueError, match=r"ROLLOUT_STEPS\) must be at least 1"):
        StateSettings("rollout", rollout_steps=(4, 0))


def test_state_noise_is_on_the_estimates_that_a_chain_hands_on(ensemble):
    z_0 = torch.randn(4000, DIM)
    chain = make_training_states(StateSettings("rollout", state_noise=0.5), ensemble, z_0, FEATURES)
    assert torch.equal(chain.state(0).z, z_0)
    z1_hat = torch.randn(4000, DIM) * 3
    chain.visited(0, z1_hat)
    noise = chain.state(1).estimate - z1_hat
    # 0.5 of 3, and two of three blocks left to go
    assert noise.std() == pytest.approx(1.0, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), z1_hat.flatten()]))[0, 1]) < 0.05
    with pytest.raises(ValueError, match=r"STATE_NOISE\) is negative: -1"):
        StateSettings("rollout", state_noise=-1)


def test_no_gradient_flows_through_the_walk(ensemble):
    chain = make_training_states(StateSettings("rollout"), ensemble, torch.randn(2, DIM), FEATURES)
    chain.visited(0, ensemble.predict(0, chain.state(0), FEATURES).z1_hat)
    state = chain.state(1)
    assert not state.z.requires_grad
    assert not state.estimate.requires_grad


def test_the_learned_start_gets_its_gradient(ensemble):
    states = make_training_states(StateSettings("rollout"), ensemble, torch.randn(2, DIM), FEATURES)
    ensemble.predict(0, states.state(0), FEATURES).z1_hat.sum().backward()
    assert ensemble.start.grad.abs().sum() > 0


@pytest.mark.parametrize("walk_trains", [True, False])
@pytest.mark.parametrize("kind", ["interpolated", "rollout"])
def test_lessons_at_the_start_train_the_features_and_others_may(ensemble, kind, walk_trains):
    settings = StateSettings(kind, learn_at_start=True, states_train_features=walk_trains)
    walked = 0
    for _ in range(10):
        states = make_training_states(settings, ensemble, torch.randn(2, DIM), FEATURES)
        for k in range(3):
            start, *others = states.lessons(k, torch.randn(2, DIM))
            assert start.state is states.initial and start.trains_features
            for lesson in others:
                assert lesson.state.t.min() > 0
                assert lesson.trains_features == walk_trains
            last = [start, *others][-1]
            states.visited(k, ensemble.predict(k, last.state, FEATURES).z1_hat)
            walked += len(others)
    assert walked > 0


def test_unknown_states():
    with pytest.raises(ValueError, match="unknown training states 'dream'"):
        StateSettings("dream")
