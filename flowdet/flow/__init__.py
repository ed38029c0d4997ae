"""Flow matching with block-local training. It imports no package except torch.

- `path`: the linear path between noise and target, and its Euler step.
- `noise`: z_0 in training and at inference.
- `state`: the state z_t, and the prediction of a block.
- `time_embedding`: the input t of a block.
- `time_intervals`: which block serves a time t, and the times of the Euler steps.
- `blocks`: flow blocks for one state vector per image.
- `ensemble`: T blocks on shared features.
- `training_states`: the states that blocks are trained on. They pass no gradient to other blocks.
- `loss`: the flow-matching loss.
- `block_local`: block-local losses as one autograd node; the gradient stops at the features.
- `training_schedule`: which blocks are trained in an iteration.
- `modes`: inference modes, which select the blocks of an Euler step.
- `solvers`: the Euler solver.
- `errors`: the error of a training that diverges.
"""

from flowdet.flow.block_local import HalfPrecisionScale, add_losses, block_local_losses
from flowdet.flow.blocks import (
    EncoderFlowBlock,
    MLPFlowBlock,
    ResidualMLPFlowBlock,
    StateInput,
)
from flowdet.flow.ensemble import PREDICTIONS, FlowEnsemble
from flowdet.flow.errors import NonFiniteError
from flowdet.flow.loss import flow_loss
from flowdet.flow.modes import (
    INFERENCE_MODES,
    InferencePlan,
    InferenceSettings,
    Step,
    register_mode,
)
from flowdet.flow.noise import inference_noise, training_noise
from flowdet.flow.path import (
    LinearPath,
    PathSample,
    couple,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
)
from flowdet.flow.solvers import Solution, solve
from flowdet.flow.state import (
    FlowState,
    PerBlockFeatures,
    Prediction,
    PreparedFeatures,
    features_for_copies,
    select_rows,
)
from flowdet.flow.time_embedding import TimeEmbedding
from flowdet.flow.training_schedule import SCHEDULES, LocalTraining, blocks_to_train
from flowdet.flow.training_states import (
    TRAINING_STATES,
    InterpolatedStates,
    StateSettings,
    TrainingSample,
    TrainingStatesFactory,
    make_training_states,
    without_gradient,
)

__all__ = [
    "INFERENCE_MODES",
    "PREDICTIONS",
    "SCHEDULES",
    "TRAINING_STATES",
    "EncoderFlowBlock",
    "FlowEnsemble",
    "FlowState",
    "HalfPrecisionScale",
    "InferencePlan",
    "InferenceSettings",
    "InterpolatedStates",
    "LinearPath",
    "LocalTraining",
    "MLPFlowBlock",
    "NonFiniteError",
    "PathSample",
    "PerBlockFeatures",
    "Prediction",
    "PreparedFeatures",
    "ResidualMLPFlowBlock",
    "Solution",
    "StateInput",
    "StateSettings",
    "Step",
    "TimeEmbedding",
    "TrainingSample",
    "TrainingStatesFactory",
    "add_losses",
    "block_local_losses",
    "blocks_to_train",
    "couple",
    "features_for_copies",
    "flow_loss",
    "inference_noise",
    "make_training_states",
    "optimal_transport_coupling",
    "ordered_coupling",
    "random_coupling",
    "register_mode",
    "select_rows",
    "solve",
    "training_noise",
    "without_gradient",
]
