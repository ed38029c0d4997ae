"""Flow matching with block-local training. It imports no package except torch.

- `path`: the linear path between noise and target, and its Euler step.
- `time`: the time embedding.
- `state`: the state z_t, and the prediction of a block.
- `blocks`: flow blocks for one state vector per image.
- `ensemble`: T blocks on shared features.
- `training_states`: the states that blocks are trained on.
- `local`: block-local losses as one autograd node.
- `schedule`: which blocks are trained in an iteration.
- `modes`: inference modes, which select the blocks of an Euler step.
- `solvers`: the Euler solver.
"""

from flowdet.flow.blocks import (
    EncoderFlowBlock,
    MLPFlowBlock,
    ResidualMLPFlowBlock,
    StateInput,
)
from flowdet.flow.ensemble import PREDICTIONS, FlowEnsemble
from flowdet.flow.local import HalfPrecisionScale, add_losses, block_local_losses
from flowdet.flow.modes import (
    INFERENCE_MODES,
    InferencePlan,
    InferenceSettings,
    Step,
    register_mode,
)
from flowdet.flow.path import (
    LinearPath,
    PathSample,
    couple,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
)
from flowdet.flow.schedule import SCHEDULES, LocalTraining, blocks_to_train
from flowdet.flow.solvers import Solution, solve
from flowdet.flow.state import FlowState, PerBlockFeatures, Prediction, select_rows
from flowdet.flow.time import TimeEmbedding
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
    "PathSample",
    "PerBlockFeatures",
    "Prediction",
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
    "make_training_states",
    "optimal_transport_coupling",
    "ordered_coupling",
    "random_coupling",
    "register_mode",
    "select_rows",
    "solve",
    "without_gradient",
]
