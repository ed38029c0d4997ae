"""The keys that detection and classification share; each has the same meaning in both."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import (
    BLOCK_CLASSIFIERS,
    DETECTORS,
    FLOW,
    QUERY_DETECTORS,
    has,
    has_not,
    is_set,
    read_by,
)
from flowdet.config.declaration import Key, for_training, group
from flowdet.flow import INFERENCE_MODES, PREDICTIONS, SCHEDULES, TRAINING_STATES

_HAS_BLOCKS = read_by(*QUERY_DETECTORS, *BLOCK_CLASSIFIERS)
_IS_FLOW = read_by(*FLOW)

BLOCK_KEYS = (
    group(
        "Number of classes C. 0 takes it from the class names of the training dataset.",
        NUM_CLASSES=Key(0, r.at_least(0, 10**5)),
    ),
    group(
        "Names of the backbone's feature maps that the blocks get. In FLOW_CLS, [] means all "
        "stages of the backbone, and TOPOLOGY decides which block gets which.",
        IN_FEATURES=Key(
            ["res4"],
            r.each(r.NAME, optional=True),
            (read_by(*DETECTORS, *BLOCK_CLASSIFIERS),),
            element=str,
        ),
    ),
    group(
        "Type of the flow blocks. In FLOW_DET a name in DETECTION_BLOCK_REGISTRY: "
        '"transformer" (D.1) or your own. In FLOW_CLS a name in CLASSIFICATION_BLOCK_REGISTRY: '
        '"mlp" (eq. 7-8), "light_mlp" (one hidden layer), "residual_mlp", "encoder" (a '
        "transformer encoder layer, for tokens) or your own.",
        BLOCK=Key("transformer", r.NAME, (_HAS_BLOCKS,)),
    ),
    group(
        "Number of flow blocks T.",
        NUM_BLOCKS=Key(4, r.at_least(1, 1000), (_HAS_BLOCKS,)),
    ),
    group(
        "Embedding dimension d.",
        HIDDEN_DIM=Key(128, r.SIZE, (read_by(*DETECTORS, *BLOCK_CLASSIFIERS),)),
    ),
    group(
        "Number of attention heads of a block, if it has attention.",
        NUM_HEADS=Key(
            4, r.SIZE, (_HAS_BLOCKS, has_not("BLOCK", "mlp", "light_mlp", "residual_mlp"))
        ),
    ),
    group(
        "Dropout probability in a block.",
        DROPOUT=Key(0.0, r.DROPOUT, (_HAS_BLOCKS,)),
    ),
    group(
        'What a block predicts: "velocity" (the paper) or "target" (a correction of the '
        "previous estimate of z_1).",
        PREDICTION=Key("target", r.one_of(*PREDICTIONS), (_IS_FLOW,)),
    ),
    group(
        "Whether the blocks also get the previous estimate of z_1 as input.",
        SELF_CONDITIONING=Key(True, r.TRUE_OR_FALSE, (_IS_FLOW,)),
    ),
    group(
        "Standard deviation of the noise z_0.",
        NOISE_SCALE=Key(0.3, r.at_least(0, 1000), (_IS_FLOW,)),
    ),
    group(
        "Whether target embeddings are layer-normalized.",
        NORMALIZE_TARGET=Key(True, r.TRUE_OR_FALSE, (_IS_FLOW,)),
    ),
    group(
        "Whether the losses train the target embeddings.",
        LEARN_TARGET=Key(False, r.TRUE_OR_FALSE, (_IS_FLOW,)),
    ),
)

TRAINING_KEYS = for_training(
    group(
        'States z_t that the blocks are trained on: "interpolated" (the paper: between noise '
        'and target) or "rollout" (on-policy: block k is trained on the state that the '
        "previous blocks produce).",
        TRAINING_STATES=Key("rollout", r.registered(TRAINING_STATES), (_IS_FLOW,)),
    ),
    group(
        "The number of Euler steps of a rollout is drawn from these, e.g. [1, 2, 4, 8]. [] "
        "means T.",
        ROLLOUT_STEPS=Key(
            [],
            r.each(r.at_least(1, 1000), optional=True),
            (_IS_FLOW, has_not("TRAINING_STATES", "interpolated")),
            element=int,
        ),
    ),
    group(
        "Gaussian noise on the intermediate estimates of a rollout, as a fraction of their "
        "standard deviation, times 1 - t. It simulates the larger errors that are made on "
        "unseen images.",
        STATE_NOISE=Key(
            0.3, r.at_least(0, 1000), (_IS_FLOW, has_not("TRAINING_STATES", "interpolated"))
        ),
    ),
    group(
        "Whether every block is also trained at t = 0 in every iteration. With rollouts, "
        'INFERENCE_MODE "ensemble", "multi_step_ensemble", and "single_step" with a block '
        "other than 0 need it.",
        LEARN_AT_START=Key(False, r.TRUE_OR_FALSE, (_IS_FLOW,)),
    ),
    group(
        "With LEARN_AT_START: whether the losses at t > 0 also pass a gradient to the "
        "features. Otherwise only the losses at t = 0 do.",
        STATES_TRAIN_FEATURES=Key(True, r.TRUE_OR_FALSE, (_IS_FLOW, is_set("LEARN_AT_START"))),
    ),
    group(
        'Blocks that are trained in an iteration: "joint" (all) or "alternate" (Algorithm 1: '
        "one per epoch, in turn).",
        SCHEDULE=Key("joint", r.one_of(*SCHEDULES), (_IS_FLOW,)),
    ),
    group(
        'Iterations per epoch, for "alternate". 0 takes them from the size of the training '
        "dataset.",
        ITERS_PER_EPOCH=Key(0, r.ITERATIONS, (_IS_FLOW, has("SCHEDULE", "alternate"))),
    ),
    group(
        "Weights of the flow loss (eq. 14) and of the classification loss. In FLOW_DET, "
        "CLASS_WEIGHT is also the weight of the class probability in the matching cost.",
        FLOW_WEIGHT=Key(0.02, r.WEIGHT, (_IS_FLOW,)),
        CLASS_WEIGHT=Key(4.0, r.WEIGHT, (_HAS_BLOCKS,)),
    ),
)

INFERENCE_KEYS = (
    group(
        'Inference mode: "single_step", "ensemble", "multi_step", "multi_step_ensemble" or '
        "your own.",
        INFERENCE_MODE=Key("multi_step", r.registered(INFERENCE_MODES), (_IS_FLOW,)),
    ),
    group(
        "Number of Euler steps of the multi-step modes. 0 means one step per block.",
        NUM_STEPS=Key(
            8,
            r.at_least(0, 10_000),
            (_IS_FLOW, has_not("INFERENCE_MODE", "single_step", "ensemble")),
        ),
    ),
    group(
        'Block of "single_step", from 0. Negative numbers count from the end: -1 is the last '
        "block.",
        SINGLE_STEP_BLOCK=Key(
            0,
            r.from_to(-1000, 999),
            (_IS_FLOW, has_not("INFERENCE_MODE", "ensemble", "multi_step", "multi_step_ensemble")),
        ),
    ),
    group(
        "Seed of the noise z_0 at inference.",
        NOISE_SEED=Key(0, r.NOISE_SEED, (read_by(*FLOW, "BoxTransportDetector"),)),
    ),
)
