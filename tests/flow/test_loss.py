import torch

from flowdet.flow import FlowState, flow_loss
from tests.flow.toy import DIM, constants, mlps


def test_flow_loss_is_zero_for_the_true_velocity_and_grows_with_the_error():
    z_0, z_1, t = torch.zeros(1, DIM), torch.full((1, DIM), 2.0), torch.tensor([0.5])
    ensemble = constants(2.0)
    interpolated = FlowState(0.5 * z_0 + 0.5 * z_1, t, z_0=z_0)
    visited = FlowState(0.5 * z_0 + 0.5 * z_1, t)
    for state in (interpolated, visited):
        prediction = ensemble.predict(0, state, None)
        assert flow_loss(prediction, state, z_1, ensemble.prediction) == 0
    prediction = constants(5.0).predict(0, interpolated, None)
    assert flow_loss(prediction, interpolated, z_1, ensemble.prediction) == 9


def test_flow_loss_of_target_prediction_is_that_of_the_velocity_times_the_rest():
    ensemble = mlps(prediction="target")
    t = torch.tensor([0.8])
    state = FlowState(torch.randn(1, DIM), t, torch.randn(1, DIM))
    z_1, features = torch.randn(1, DIM), torch.randn(1, 5)
    prediction = ensemble.predict(0, state, features)
    velocity = (prediction.z1_hat - state.z) / (1 - t)
    wanted = (z_1 - state.z) / (1 - t)
    by_velocity = (velocity - wanted).square().mean() * (1 - t).square()
    assert torch.allclose(
        flow_loss(prediction, state, z_1, ensemble.prediction), by_velocity, atol=1e-6
    )
