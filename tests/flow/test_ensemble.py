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
