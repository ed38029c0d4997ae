"""The keys of classifiers: `MODEL.FLOW_CLS`."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.blocks import BLOCK_KEYS, INFERENCE_KEYS, TRAINING_KEYS
from flowdet.config.conditions import BLOCK_CLASSIFIERS, CLASSIFIERS, has_not, read_by
from flowdet.config.declaration import Key, Section, group

_IS_FLOW = read_by("FlowMatchingClassifier")

_CLASSIFICATION = (
    group(
        'Which block gets which feature map: "parallel" (all blocks get the last of '
        'IN_FEATURES) or "sequential" (block k gets the k-th; IN_FEATURES must have NUM_BLOCKS '
        "names).",
        TOPOLOGY=Key(
            "parallel", r.one_of("parallel", "sequential"), (read_by(*BLOCK_CLASSIFIERS),)
        ),
    ),
    group(
        'Form of the features that a block gets: "pooled" (the mean over positions, [B, c]) or '
        '"tokens" (all positions, [B, N, c]).',
        FEATURES=Key("pooled", r.one_of("pooled", "tokens"), (read_by(*BLOCK_CLASSIFIERS),)),
    ),
    group(
        "Hidden units of a block.",
        BLOCK_DIM=Key(512, r.SIZE, (read_by(*BLOCK_CLASSIFIERS),)),
    ),
    group(
        'Number of residual layers of "residual_mlp".',
        BLOCK_LAYERS=Key(
            2,
            r.at_least(1, 1000),
            (read_by(*BLOCK_CLASSIFIERS), has_not("BLOCK", "mlp", "light_mlp", "encoder")),
        ),
    ),
    group(
        "Whether class logits are computed with the target embeddings (tied), not with a "
        "separate projection (W_cls).",
        TIE_CLASSES=Key(False, r.TRUE_OR_FALSE, (_IS_FLOW,)),
    ),
    group(
        "Numbers of Euler steps that an evaluation reports. [] means 1, 2, T and 2T.",
        EVAL_STEPS=Key([], r.each(r.at_least(1, 10_000), optional=True), (_IS_FLOW,), element=int),
    ),
)

SECTION = Section(
    "MODEL.FLOW_CLS",
    (*BLOCK_KEYS, *TRAINING_KEYS, *INFERENCE_KEYS, *_CLASSIFICATION),
    (read_by(*CLASSIFIERS),),
    defaults={
        "IN_FEATURES": [],
        "BLOCK": "mlp",
        "STATE_NOISE": 0.0,
        "LEARN_AT_START": True,
        "STATES_TRAIN_FEATURES": False,
        "CLASS_WEIGHT": 1.0,
        "NUM_STEPS": 0,
    },
)
