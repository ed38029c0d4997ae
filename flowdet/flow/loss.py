"""The flow-matching loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flowdet.flow.path import expand_time
from flowdet.flow.state import FlowState, Prediction


def flow_loss(prediction: Prediction, state: FlowState, z_1: Tensor, kind: str) -> Tensor:
    """Returns the flow-matching loss of a prediction, a scalar (eq. 14, mean over elements).

    For `velocity` it is the mean squared error between the output and the velocity from the state
    to `z_1`. For `target` it is the mean squared error between `z1_hat` and `z_1`: this differs
    only by the factor `(1 - t)^2`, and stays finite near t = 1.

    Args:
        prediction: prediction of a block at `state`.
        state: training state.
        z_1: target, [B, ..., d].
        kind: what the blocks predict, `velocity` or `target` (`FlowEnsemble.prediction`).
    """
    if kind == "target":
        return F.mse_loss(prediction.z1_hat.float(), z_1.float())
    if state.z_0 is not None:
        velocity = z_1 - state.z_0
    else:
        velocity = (z_1 - state.z) / (1 - expand_time(state.t, state.z))
    return F.mse_loss(prediction.output.float(), velocity.float())
