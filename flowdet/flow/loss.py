"""The flow-matching loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flowdet.flow.path import expand_time
from flowdet.flow.state import FlowState, Prediction


def flow_loss(prediction: Prediction, state: FlowState, z_1: Tensor, kind: str) -> Tensor:
    """The flow-matching loss of a prediction, a scalar (eq. 14, mean over elements).

    Args:
        prediction: of a block at `state`.
        state: the training state.
        z_1: target, [B, ..., d].
        kind: `FlowEnsemble.prediction`. For `velocity` the loss is the mean squared error to the
            velocity from the state to `z_1`; for `target` that of `z1_hat` to `z_1`, which differs
            by the factor `(1 - t)^2` only and stays finite near t = 1.
    """
    if kind == "target":
        return F.mse_loss(prediction.z1_hat.float(), z_1.float())
    if state.z_0 is not None:
        velocity = z_1 - state.z_0
    else:
        velocity = (z_1 - state.z) / (1 - expand_time(state.t, state.z))
    return F.mse_loss(prediction.output.float(), velocity.float())
