"""The keys of training and evaluation."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import (
    DETECTORS,
    QUERY_DETECTORS,
    is_not_set,
    is_set,
    read_by,
)
from flowdet.config.declaration import Key, Section, for_training, group

# cached features are used in training, too
_ENCODES = (read_by(*DETECTORS), is_not_set("MODEL.FLOW_DET.FEATURE_CACHE_GIB"))

_TEST = (
    group(
        "Number of images per batch in evaluation, in each process.",
        BATCH_SIZE=Key(8, r.COUNT),
    ),
    group(
        "Whether backbone and neck of a detector get images in the memory format channels-last at "
        "inference. The results differ by rounding only.",
        CHANNELS_LAST=Key(False, r.TRUE_OR_FALSE, _ENCODES),
    ),
    group(
        "Whether backbone and neck of a detector run in bfloat16 at inference. The blocks and "
        "the heads stay in float32, so boxes move by a fraction of a pixel.",
        BFLOAT16=Key(False, r.TRUE_OR_FALSE, _ENCODES),
    ),
    group(
        "Whether the steps of a flow detector and its box stability are compiled by torch.compile "
        "at inference, when they first run with a new batch or image size. This takes minutes, and "
        "a CPU needs a C++ compiler.",
        COMPILE=Key(
            False,
            r.TRUE_OR_FALSE,
            (read_by("FlowMatchingDetector"), is_not_set("MODEL.FLOW_DET.EARLY_EXIT")),
        ),
    ),
    group(
        "Names of classes. VOC evaluation also reports the means over them, as AP-subset, "
        "AP50-subset and AP75-subset.",
        CLASS_SUBSET=Key([], r.each(r.NAME, optional=True), (read_by(*DETECTORS),), element=str),
    ),
    group(
        "Number of images of each test dataset whose results every evaluation writes to "
        "TensorBoard. 0 is off.",
        SAMPLE_IMAGES=Key(6, r.from_to(0, 50)),
    ),
    group(
        "Whether a training writes report.html at its end.",
        REPORT=Key(True, r.TRUE_OR_FALSE),
    ),
    *for_training(
        group(
            "Number of test images from which the report shows the best and the worst. 0 "
            "leaves them out.",
            REPORT_IMAGES=Key(100, r.OPTIONAL_COUNT, (is_set("TEST.REPORT"),)),
        ),
        group(
            "Whether the explorer of these best and worst images is written next to the report of "
            "a detector with queries.",
            REPORT_EXPLORER=Key(
                True, r.TRUE_OR_FALSE, (read_by(*QUERY_DETECTORS), is_set("TEST.REPORT"))
            ),
        ),
        group(
            "The schedule in epochs of the training dataset. MAX_EPOCHS above 0 sets MAX_ITER. "
            "In the same way, the others set STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and "
            "TEST.EVAL_PERIOD. 0 or [] leaves the number of iterations unchanged.",
            EVAL_EPOCHS=Key(0, r.OPTIONAL_COUNT),
        ),
    ),
)

_SOLVER = (
    group(
        'Optimizer: "AdamW" or "SGD".',
        OPTIMIZER=Key("AdamW", r.one_of("AdamW", "SGD")),
    ),
    group(
        "Learning rate of the backbone, as a fraction of BASE_LR.",
        BACKBONE_MULTIPLIER=Key(0.1, r.at_least(0, 1000)),
    ),
    group(
        "Decay of an exponential moving average of the weights. The average is also "
        'evaluated; the names of its results end in "_ema". 0 is off.',
        EMA_DECAY=Key(0.0, r.from_to_below(0, 1)),
    ),
    group(
        "The schedule in epochs of the training dataset. MAX_EPOCHS above 0 sets MAX_ITER. "
        "In the same way, the others set STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and "
        "TEST.EVAL_PERIOD. 0 or [] leaves the number of iterations unchanged.",
        MAX_EPOCHS=Key(0, r.OPTIONAL_COUNT),
        STEP_EPOCHS=Key([], r.increasing(r.OPTIONAL_COUNT, "epochs"), element=int),
        WARMUP_EPOCHS=Key(0, r.OPTIONAL_COUNT),
        CHECKPOINT_EPOCHS=Key(0, r.OPTIONAL_COUNT),
    ),
)

SECTIONS = (
    Section("TEST", _TEST),
    Section("SOLVER", _SOLVER, training=True),
)
