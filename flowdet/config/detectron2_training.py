"""Rules for detectron2's keys of data, training and evaluation. detectron2 has their defaults."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import DETECTORS, has, has_not, is_not_set, is_set, read_by
from flowdet.config.declaration import Key, checked

_IS_DETECTOR = read_by(*DETECTORS)
# otherwise every image is resized to INPUT.FIXED_SIZE
_VARIABLE_SIZE = is_not_set("INPUT.FIXED_SIZE")
_IS_CROPPED = is_set("INPUT.CROP.ENABLED")
_MULTI_STEP = "WarmupMultiStepLR"
_COSINE = "WarmupCosineLR"
_FIXED_GAMMA = "WarmupStepWithFixedGammaLR"

DATA = (
    checked(
        "DATASETS",
        {
            "TRAIN": Key(None, r.each(r.NAME, optional=True), element=str),
            "TEST": Key(None, r.each(r.NAME, optional=True), element=str),
        },
    ),
    checked(
        "INPUT",
        {
            "FORMAT": Key(None, r.one_of("RGB", "BGR"), example="RGB"),
            "RANDOM_FLIP": r.one_of("horizontal", "vertical", "none"),
        },
    ),
    checked(
        "INPUT",
        {"MIN_SIZE_TEST": r.at_least(0, r.LONGEST_SIDE), "MAX_SIZE_TEST": r.SIDE},
        _IS_DETECTOR,
        _VARIABLE_SIZE,
    ),
    checked(
        "INPUT",
        {
            "MIN_SIZE_TRAIN": r.each(r.at_least(0, r.LONGEST_SIDE)),
            "MIN_SIZE_TRAIN_SAMPLING": r.one_of("choice", "range"),
            "MAX_SIZE_TRAIN": r.SIDE,
        },
        _IS_DETECTOR,
        _VARIABLE_SIZE,
        training=True,
    ),
    checked("INPUT.CROP", {"ENABLED": r.TRUE_OR_FALSE}, _IS_DETECTOR, training=True),
    checked(
        "INPUT.CROP",
        {
            "TYPE": r.one_of("relative_range", "relative", "absolute", "absolute_range"),
            "SIZE": r.each(r.above(0, r.LONGEST_SIDE), 2),
        },
        _IS_DETECTOR,
        _IS_CROPPED,
        training=True,
    ),
    checked("DATALOADER", {"NUM_WORKERS": r.at_least(0, 1000)}),
    checked(
        "DATALOADER",
        {
            "SAMPLER_TRAIN": r.one_of(
                "TrainingSampler", "RandomSubsetTrainingSampler", "RepeatFactorTrainingSampler"
            ),
            "ASPECT_RATIO_GROUPING": r.TRUE_OR_FALSE,
            "FILTER_EMPTY_ANNOTATIONS": r.TRUE_OR_FALSE,
        },
        _IS_DETECTOR,
        training=True,
    ),
    checked(
        "DATALOADER",
        {"REPEAT_THRESHOLD": r.FRACTION},
        _IS_DETECTOR,
        has("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        training=True,
    ),
    # only some versions of detectron2 have this key
    checked(
        "DATALOADER",
        {"RANDOM_SUBSET_RATIO": r.POSITIVE_FRACTION},
        _IS_DETECTOR,
        has("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
        training=True,
    ),
)

SOLVER = (
    checked(
        "SOLVER",
        {
            "LR_SCHEDULER_NAME": r.one_of(_MULTI_STEP, _COSINE, _FIXED_GAMMA),
            "BASE_LR": r.above(0, 1000),
            "WEIGHT_DECAY": r.at_least(0, 1000),
            "WEIGHT_DECAY_NORM": r.at_least(0, 1000),
            "WEIGHT_DECAY_BIAS": r.WEIGHT_DECAY_BIAS,
            "BIAS_LR_FACTOR": r.at_least(0, 1000),
            "WARMUP_METHOD": r.one_of("linear", "constant"),
            "WARMUP_FACTOR": r.FRACTION,
            "RESCALE_INTERVAL": r.TRUE_OR_FALSE,
            "IMS_PER_BATCH": r.COUNT,
            "REFERENCE_WORLD_SIZE": r.OPTIONAL_COUNT,
        },
        training=True,
    ),
    checked(
        "SOLVER",
        {"MAX_ITER": r.ITERATIONS},
        is_not_set("SOLVER.MAX_EPOCHS"),
        training=True,
    ),
    checked(
        "SOLVER",
        {"WARMUP_ITERS": r.ITERATIONS},
        is_not_set("SOLVER.WARMUP_EPOCHS"),
        training=True,
    ),
    checked(
        "SOLVER",
        {"CHECKPOINT_PERIOD": r.at_least(1, 10**9)},
        is_not_set("SOLVER.CHECKPOINT_EPOCHS"),
        training=True,
    ),
    checked(
        "SOLVER",
        {"STEPS": r.increasing(r.ITERATIONS, "iterations")},
        is_not_set("SOLVER.STEP_EPOCHS"),
        has("SOLVER.LR_SCHEDULER_NAME", _MULTI_STEP),
        training=True,
    ),
    checked(
        "SOLVER",
        {"GAMMA": r.POSITIVE_FRACTION},
        has_not("SOLVER.LR_SCHEDULER_NAME", _COSINE),
        training=True,
    ),
    checked(
        "SOLVER",
        {"NUM_DECAYS": r.COUNT},
        has("SOLVER.LR_SCHEDULER_NAME", _FIXED_GAMMA),
        training=True,
    ),
    checked(
        "SOLVER",
        {"BASE_LR_END": r.at_least(0, 1000)},
        has("SOLVER.LR_SCHEDULER_NAME", _COSINE),
        training=True,
    ),
    checked(
        "SOLVER",
        {"MOMENTUM": r.from_to_below(0, 1), "NESTEROV": r.TRUE_OR_FALSE},
        has("SOLVER.OPTIMIZER", "SGD"),
        training=True,
    ),
    checked("SOLVER.AMP", {"ENABLED": r.TRUE_OR_FALSE}, training=True),
    checked("SOLVER.CLIP_GRADIENTS", {"ENABLED": r.TRUE_OR_FALSE}, training=True),
    checked(
        "SOLVER.CLIP_GRADIENTS",
        {
            "CLIP_TYPE": r.one_of("value", "norm", "full_model"),
            "CLIP_VALUE": r.above(0, r.MOST),
        },
        is_set("SOLVER.CLIP_GRADIENTS.ENABLED"),
        training=True,
    ),
    checked(
        "SOLVER.CLIP_GRADIENTS",
        {"NORM_TYPE": r.NORM_TYPE},
        is_set("SOLVER.CLIP_GRADIENTS.ENABLED"),
        has_not("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"),
        training=True,
    ),
)

EVALUATION = (
    checked("TEST", {"DETECTIONS_PER_IMAGE": r.COUNT}, _IS_DETECTOR),
    checked(
        "TEST",
        {"EXPECTED_RESULTS": Key(None, r.EXPECTED_RESULTS, example="[['bbox','AP',40.0,0.5]]")},
        training=True,
    ),
    checked("TEST", {"EVAL_PERIOD": r.ITERATIONS}, is_not_set("TEST.EVAL_EPOCHS"), training=True),
    checked("TEST.PRECISE_BN", {"ENABLED": r.TRUE_OR_FALSE}, training=True),
    checked(
        "TEST.PRECISE_BN", {"NUM_ITER": r.COUNT}, is_set("TEST.PRECISE_BN.ENABLED"), training=True
    ),
    checked(
        "",
        {
            "OUTPUT_DIR": r.FOLDER,
            # numpy's seeds have 32 bits, and processes add their rank
            "SEED": r.SEED,
            "CUDNN_BENCHMARK": r.TRUE_OR_FALSE,
        },
    ),
)
