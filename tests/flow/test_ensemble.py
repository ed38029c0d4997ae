import pytest
import torch

from flowdet.flow import FlowEnsemble, FlowState, PerBlockFeatures
from tests.flow.toy import DIM, IdentityTime, constants, mlps


def test_velocity_prediction_by_hand():
    state = FlowState(torch.ones(1, DIM), torch.tensor([0.75]))
    prediction = constants(2.0).predict(0, state, None)
    assert prediction.z1_hat.tolist() == [[1.5] * DIM]


def test_target_prediction_by_hand():
    ensemble = constants(2.0, prediction="target", start=torch.full((DIM,), 5.0))
    state = ensemble.initial_state(torch.zeros(1, DIM))
    assert ensemble.predict(0, state, None).z1_hat.tolist() == [[7.0] * DIM]


def test_flow_loss_is_zero_for_the_true_velocity_and_grows_with_the_error():
    z_0, z_1, t = torch.zeros(1, DIM), torch.full((1, DIM), 2.0), torch.tensor([0.5])
    ensemble = constants(2.0)
    interpolated = FlowState(0.5 * z_0 + 0.5 * z_1, t, z_0=z_0)
    visited = FlowState(0.5 * z_0 + 0.5 * z_1, t)
    for state in (interpolated, visited):
        prediction = ensemble.predict(0, state, None)
        assert ensemble.flow_loss(prediction, state, z_1) == 0
    prediction = constants(5.0).predict(0, interpolated, None)
    assert ensemble.flow_loss(prediction, interpolated, z_1) == 9


def test_flow_loss_of_target_prediction_is_that_of_the_velocity_times_the_rest():
    ensemble = mlps(prediction="target")
    t = torch.tensor([0.8])
    state = FlowState(torch.randn(1, DIM), t, torch.randn(1, DIM))
    z_1, features = torch.randn(1, DIM), torch.randn(1, 5)
    prediction = ensemble.predict(0, state, features)
    velocity = (prediction.z1_hat - state.z) / (1 - t)
    wanted = (z_1 - state.z) / (1 - t)
    by_velocity = (velocity - wanted).square().mean() * (1 - t).square()
    assert torch.allclose(ensemble.flow_loss(prediction, state, z_1), by_velocity, atol=1e-6)


def test_consensus_is_the_mean_and_blocks_are_separate():
    ensemble, features = mlps(), torch.randn(2, 5)
    state = ensemble.initial_state(torch.randn(2, DIM))
    each = [ensemble.predict(k, state, features).z1_hat for k in range(3)]
    assert torch.allclose(ensemble.mean_estimate(state, features), torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[1])


def test_bad_ensembles():
    with pytest.raises(ValueError, match="at least one block"):
        FlowEnsemble([], IdentityTime())
    with pytest.raises(ValueError, match="unknown prediction 'noise'"):
        constants(1.0, prediction="noise")
    with pytest.raises(ValueError, match="give a start estimate"):
        constants(1.0, prediction="target")


def test_features_per_block():
    ensemble, state = mlps(2), FlowState(torch.ones(3, DIM), torch.zeros(3))
    features = PerBlockFeatures([torch.randn(3, 5), torch.randn(3, 5)])
    for k in range(2):
        own = ensemble.predict(k, state, features).output
        assert torch.equal(own, ensemble.predict(k, state, features[k]).output)
        assert not torch.equal(own, ensemble.predict(k, state, features[1 - k]).output)
