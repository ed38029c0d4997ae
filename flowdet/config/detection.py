"""The keys of detectors: `MODEL.FLOW_DET`."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.blocks import BLOCK_KEYS, INFERENCE_KEYS, TRAINING_KEYS
from flowdet.config.conditions import (
    DETECTORS,
    QUERY_DETECTORS,
    either,
    has_not,
    is_set,
    read_by,
)
from flowdet.config.declaration import Key, Section, for_training, group

_HAS_QUERIES = read_by(*QUERY_DETECTORS)
_IS_FLOW = read_by("FlowMatchingDetector")
_IS_BACKPROP = read_by("BackpropDetector")
_CAN_DENOISE = read_by("FlowMatchingDetector", "BackpropDetector")
_DENOISES = either(is_set("DENOISING_QUERIES"), is_set("PROPOSAL_QUERIES"))

_MODEL = (
    group(
        "Number of queries M, which is also the maximum number of objects of a training image "
        "that are matched with queries: the largest. The proposal network, denoising queries "
        "and IGNORE_IOU use all objects.",
        NUM_QUERIES=Key(50, r.at_least(1, 10_000), (_HAS_QUERIES,)),
    ),
    group(
        'Normalization after the 1x1 projection of the features ("" for none), and number of '
        "residual convolution blocks after it.",
        NECK_NORM=Key("GN", r.NORM),
        NECK_BLOCKS=Key(1, r.at_least(0, 100)),
    ),
    group(
        "Frequency of the fastest sine of the positional encoding, in cycles per image. 0 "
        "means half the number of tokens along the shorter side of an image (INPUT.FIXED_SIZE "
        "or MIN_SIZE_TEST), minus one. A frequency above half the number of tokens would "
        "alias. A checkpoint keeps the frequencies that it was trained with.",
        POSITION_MAX_FREQUENCY=Key(0.0, r.at_least(0, 10_000)),
    ),
    group(
        "Hidden units of the feed-forward part of a transformer block.",
        FEEDFORWARD_DIM=Key(512, r.SIZE, (_HAS_QUERIES,)),
    ),
    group(
        'Head that decodes embeddings to boxes: "linear" (the paper) or "mlp".',
        BOX_HEAD=Key("mlp", r.one_of("linear", "mlp"), (_HAS_QUERIES,)),
    ),
    group(
        "Whether queries have learned positional encodings, and start from learned estimates "
        "of z_1 whose boxes lie on a grid.",
        ANCHORED_QUERIES=Key(True, r.TRUE_OR_FALSE, (_HAS_QUERIES,)),
    ),
    group(
        "Whether cross-attention is centered at the box that the estimate decodes to.",
        BOX_ANCHORED_ATTENTION=Key(True, r.TRUE_OR_FALSE, (_HAS_QUERIES,)),
    ),
    group(
        "The blocks also sample the feature maps at a grid of points in the box that the "
        "estimate decodes to. This is the number of points per side. 0 is off.",
        BOX_SAMPLES=Key(5, r.at_least(0, 64), (_HAS_QUERIES,)),
    ),
    group(
        "Number of channels that are read at each of these points. 0 means HIDDEN_DIM / 4.",
        BOX_SAMPLE_CHANNELS=Key(0, r.OPTIONAL_SIZE, (_HAS_QUERIES, is_set("BOX_SAMPLES"))),
    ),
    group(
        "Hidden units between the samples of all points and the query. 0 means one linear layer.",
        BOX_SAMPLE_HIDDEN_DIM=Key(0, r.OPTIONAL_SIZE, (_HAS_QUERIES, is_set("BOX_SAMPLES"))),
    ),
    group(
        "Memory in GiB for cached features of a frozen backbone, which then sees each image "
        "once. It suits augmentations with few outcomes (none, flips). 0 is off.",
        FEATURE_CACHE_GIB=Key(0.0, r.WEIGHT),
    ),
    group(
        "Folder where the cached features are also written, for later runs with the same "
        'images and backbone. "" is off.',
        FEATURE_CACHE_DIR=Key("", r.OPTIONAL_FOLDER, (is_set("FEATURE_CACHE_GIB"),)),
    ),
)

_TRAINING = for_training(
    group(
        'How targets are assigned to queries in interpolated states: "ordered", "random" or '
        '"optimal_transport". Rollouts use the matching of the detection loss.',
        COUPLING=Key(
            "random",
            r.one_of("ordered", "random", "optimal_transport"),
            (_IS_FLOW, has_not("TRAINING_STATES", "rollout")),
        ),
    ),
    group(
        'How the blocks are trained: "sequential" (one after another, with the activations of one '
        'block in memory) or "parallel" (all blocks as one batched computation, with the '
        "activations of all; with rollouts only the samples at t = 0 of LEARN_AT_START, because "
        "their other states depend on the block before). The gradients are the same.",
        BLOCK_EXECUTION=Key("sequential", r.one_of("sequential", "parallel"), (_IS_FLOW,)),
    ),
    group(
        'Matching of queries and objects in the detection loss: "per_block" (each block, or '
        'layer of the baseline, matches its own prediction) or "shared" (all blocks use the '
        "matching of the first block).",
        MATCHING=Key("shared", r.one_of("per_block", "shared"), (_HAS_QUERIES,)),
    ),
    group(
        "Weights of L1 and GIoU of the boxes, in the loss and in the matching cost.",
        BBOX_WEIGHT=Key(5.0, r.WEIGHT, (_HAS_QUERIES,)),
        GIOU_WEIGHT=Key(2.0, r.WEIGHT, (_HAS_QUERIES,)),
    ),
    group(
        "Weight of the background in the classification loss, summed over the queries of an "
        "image. The weight of one background query is this value divided by NUM_QUERIES, and "
        "at most 1. So the value suits any number of queries.",
        BACKGROUND_WEIGHT_PER_IMAGE=Key(2.0, r.WEIGHT, (_HAS_QUERIES,)),
    ),
    group(
        "Whether the target probability of a matched query's class is the IoU of its box, so "
        "that scores rank boxes by their quality.",
        IOU_AWARE_TARGETS=Key(True, r.TRUE_OR_FALSE, (_HAS_QUERIES,)),
    ),
    group(
        "A query without an object has no classification loss if its box has at least this IoU "
        "with an object. 1 is off: all queries without an object are examples of background.",
        IGNORE_IOU=Key(1.0, r.POSITIVE_FRACTION, (_HAS_QUERIES,)),
    ),
    group(
        "Weight of the losses of the first block (in BackpropDetector: layer). It doubles from "
        "block to block, up to 1.",
        FIRST_BLOCK_WEIGHT=Key(0.25, r.POSITIVE_FRACTION, (_HAS_QUERIES,)),
    ),
    group(
        "Number of denoising queries per image: in training, further queries start from "
        "perturbed boxes of the objects. 0 is off. They need BOX_ANCHORED_ATTENTION.",
        DENOISING_QUERIES=Key(0, r.at_least(0, 10_000), (_CAN_DENOISE,)),
    ),
    group(
        "Number of denoising queries per image that start from proposals: boxes that "
        "detectron2's region proposal network finds on the feature maps. MODEL.RPN and "
        "MODEL.ANCHOR_GENERATOR configure it; each block draws from its "
        "MODEL.RPN.POST_NMS_TOPK_TRAIN best boxes, which must be at least as many. If the "
        "network finds fewer in an image, boxes are drawn again; if it finds none, the queries "
        "start at the whole image. 0 is off. They need BOX_ANCHORED_ATTENTION.",
        PROPOSAL_QUERIES=Key(0, r.at_least(0, 10_000), (_CAN_DENOISE,)),
    ),
    group(
        "Highest noise level s of a perturbed box. Its center is moved by s / 2 standard "
        "deviations of the box size, and the logarithm of its sides by s. The level is drawn "
        "for each query.",
        DENOISING_NOISE=Key(0.6, r.above(0, 100), (_CAN_DENOISE, is_set("DENOISING_QUERIES"))),
    ),
    group(
        "Smallest IoU of a perturbed box or proposal with its object. Below it, its target is "
        "background.",
        DENOISING_MIN_IOU=Key(0.4, r.POSITIVE_FRACTION, (_CAN_DENOISE, _DENOISES)),
    ),
    group(
        "Weight of the losses of all denoising queries.",
        DENOISING_WEIGHT=Key(1.0, r.POSITIVE_WEIGHT, (_CAN_DENOISE, _DENOISES)),
    ),
    group(
        "With LEARN_AT_START: weight of the losses at t = 0.",
        START_WEIGHT=Key(0.25, r.POSITIVE_WEIGHT, (_IS_FLOW, is_set("LEARN_AT_START"))),
    ),
    group(
        "Only for BackpropDetector: whether every layer has a loss, not only the last.",
        AUXILIARY_LOSSES=Key(True, r.TRUE_OR_FALSE, (_IS_BACKPROP,)),
    ),
    group(
        "Only for BackpropDetector: whether the gradient is stopped between layers.",
        DETACH_LAYERS=Key(False, r.TRUE_OR_FALSE, (_IS_BACKPROP,)),
    ),
    group(
        "Only for BackpropDetector: whether the blocks' activations are recomputed in the "
        "backward pass (gradient checkpointing).",
        CHECKPOINT_BLOCKS=Key(False, r.TRUE_OR_FALSE, (_IS_BACKPROP,)),
    ),
)

_INFERENCE = (
    group(
        "An image takes no more steps once no box that could be reported moves by more than "
        "this fraction of the image's side. 0 is off.",
        EARLY_EXIT=Key(0.0, r.FRACTION, (_IS_FLOW,)),
    ),
    group(
        "Scores are multiplied by box stability: the estimate before the last step is "
        "perturbed this many times, the step is re-run, and the IoU with the original box is "
        "averaged. Each sample costs one step. 0 is off.",
        STABILITY_SAMPLES=Key(4, r.at_least(0, 1000), (_HAS_QUERIES,)),
    ),
    group(
        "Noise of the perturbed estimates, as a fraction of their standard deviation.",
        STABILITY_NOISE=Key(0.2, r.above(0, 1000), (_HAS_QUERIES, is_set("STABILITY_SAMPLES"))),
    ),
    group(
        "Detections whose score is not above this value are dropped.",
        SCORE_THRESHOLD=Key(0.01, r.FRACTION),
    ),
    group(
        "IoU threshold of class-wise non-maximum suppression.",
        NMS_THRESHOLD=Key(0.5, r.FRACTION),
    ),
)

SECTION = Section(
    "MODEL.FLOW_DET",
    (*BLOCK_KEYS, *TRAINING_KEYS, *INFERENCE_KEYS, *_MODEL, *_TRAINING, *_INFERENCE),
    (read_by(*DETECTORS),),
)
