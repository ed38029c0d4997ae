"""Flow matching with block-local training, in plain torch (it imports nothing else).

`path` z_t between noise and target, `time` how t is drawn and embedded, `blocks` the
predictors, `ensemble` T of them, `states` what they learn on, `local` how they learn,
`training` whose turn it is, `solvers` how they infer.
"""

from flowdet.flow.blocks import (
    EncoderFlowBlock,
    MLPFlowBlock,
    QueryPosition,
    ResidualMLPFlowBlock,
    StateInput,
    TransformerFlowBlock,
)
from flowdet.flow.ensemble import PREDICTIONS, FlowEnsemble, FlowState, PerBlock, Prediction
from flowdet.flow.local import (
    SCHEDULES,
    HalfPrecisionScale,
    add_losses,
    block_local_losses,
    blocks_to_train,
)
from flowdet.flow.path import (
    LinearPath,
    PathSample,
    couple,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
)
from flowdet.flow.solvers import INFERENCE_MODES, Solution, Step, Walk, register_mode, solve
from flowdet.flow.states import (
    TRAINING_STATES,
    InterpolatedStates,
    Lesson,
    StateSettings,
    StatesMaker,
    make_states,
    without_gradient,
)
from flowdet.flow.time import TimeEmbedding
from flowdet.flow.tokens import ImageTokens, TokenGrid
from flowdet.flow.training import LocalTraining

__all__ = [
    "INFERENCE_MODES",
    "PREDICTIONS",
    "SCHEDULES",
    "TRAINING_STATES",
    "EncoderFlowBlock",
    "FlowEnsemble",
    "FlowState",
    "HalfPrecisionScale",
    "ImageTokens",
    "InterpolatedStates",
    "Lesson",
    "LinearPath",
    "LocalTraining",
    "MLPFlowBlock",
    "PathSample",
    "PerBlock",
    "Prediction",
    "QueryPosition",
    "ResidualMLPFlowBlock",
    "Solution",
    "StateInput",
    "Step",
    "StateSettings",
    "StatesMaker",
    "TimeEmbedding",
    "TokenGrid",
    "TransformerFlowBlock",
    "Walk",
    "add_losses",
    "block_local_losses",
    "blocks_to_train",
    "couple",
    "make_states",
    "optimal_transport_coupling",
    "ordered_coupling",
    "random_coupling",
    "register_mode",
    "solve",
    "without_gradient",
]
