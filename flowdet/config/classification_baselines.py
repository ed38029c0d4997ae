"""The keys of the classifiers that flowdet is compared with."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import FORWARD_FORWARD, LOCAL_LEARNING, has, is_set, read_by
from flowdet.config.declaration import Key, Section, group

_LOCAL_LEARNING = (
    group(
        "The classifiers whose layers each learn from their own loss: the read-out, a linear "
        "classifier, gets the layers' outputs averaged over a grid of this many cells per "
        "side. Of MODEL.FLOW_CLS, these classifiers read only NUM_CLASSES.",
        READOUT_GRID=Key(4, r.at_least(1, 1000)),
    ),
)

_FORWARD_FORWARD = (
    group(
        "ForwardForwardClassifier, SymBaClassifier and LayerCollaborationClassifier: how a "
        'label is written into an image, "pixels" (Hinton: a one-hot code in the first pixels) '
        'or "pattern" (SymBa: a random pattern of each class over the whole image).',
        LABEL=Key("pattern", r.one_of("pixels", "pattern")),
    ),
    group(
        "With LABEL pattern: weight of the pattern, and of the image 1 minus this value. And "
        "side of the tile in pixels; the pattern repeats it.",
        PATTERN_STRENGTH=Key(0.3, r.between(0, 1), (has("LABEL", "pattern"),)),
        PATTERN_SIZE=Key(4, r.SIZE, (has("LABEL", "pattern"),)),
    ),
    group(
        "Threshold theta of the goodness, the mean square of a layer's outputs (eq. 1). SymBa "
        "has none.",
        THRESHOLD=Key(1.5, r.above(0, r.MOST)),
    ),
    group(
        "Factor of the goodness and of its threshold in the loss. The sum of the squares, as "
        "in the paper, would have the number of units.",
        SCALE=Key(10.0, r.above(0, r.MOST)),
    ),
    group(
        "Whether wrong labels of negative samples are drawn with the probabilities of the "
        "read-out. Otherwise all wrong labels are equally probable.",
        HARD_NEGATIVES=Key(False, r.TRUE_OR_FALSE),
    ),
    group(
        'Configured inference mode: "goodness" (one pass for every label) or "readout" (a '
        "single pass).",
        INFERENCE=Key("goodness", r.one_of("goodness", "readout")),
    ),
    group(
        "SymBaClassifier: alpha, the factor of the difference between the goodness of positive "
        "and negative samples.",
        SYMBA_ALPHA=Key(4.0, r.above(0, r.MOST), (read_by("SymBaClassifier"),)),
    ),
    group(
        "LayerCollaborationClassifier: the layers whose goodness is added to that of a layer, "
        '"all" others or the "previous" ones.',
        COLLABORATION=Key(
            "all", r.one_of("all", "previous"), (read_by("LayerCollaborationClassifier"),)
        ),
    ),
)

_SFF = (
    group(
        "StochasticForwardForwardClassifier: number of noisy copies of an image, in training "
        "and at inference. At inference, 0 is one copy without noise.",
        SAMPLES=Key(20, r.at_least(2, 10_000)),
        INFERENCE_SAMPLES=Key(20, r.at_least(0, 10_000)),
    ),
    group(
        "Dropout probability of the pixel values of a copy.",
        NOISE=Key(0.2, r.between(0, 1)),
    ),
    group(
        "Weights of the two terms of a layer's loss: effective dimension of the copies of one "
        "image, and of all images.",
        COMPRESSION_WEIGHT=Key(0.5, r.WEIGHT),
        DIVERSITY_WEIGHT=Key(0.5, r.WEIGHT),
    ),
    group(
        "Dimensions of the random projection before the effective dimension, one per layer. "
        "The last one is that of all further layers.",
        PROJECTION_DIMS=Key([30, 20, 10], r.each(r.SIZE)),
    ),
)

_CFF = (
    group(
        "ContrastiveForwardForwardClassifier: temperature of the similarities.",
        TEMPERATURE=Key(0.15, r.above(0, r.MOST)),
    ),
    group(
        "Margin of the first layer, from 0 to 2, that is added to the similarities of samples "
        "of one class. 0 is off: the loss has no margin. The paper's CFF+M has 0.4.",
        MARGIN=Key(0.0, r.from_to(0, 2)),
    ),
    group(
        "Margin of the last layer as a fraction of MARGIN. The layers between have margins "
        "between.",
        LAST_MARGIN=Key(0.25, r.FRACTION, (is_set("MARGIN"),)),
    ),
)

_SOFT_HEBB = (
    group(
        "SoftHebbClassifier: kernel size, learning rate, inverse temperature of the "
        "competition and power of the triangle activation, one value per layer. The last one "
        "is that of all further layers.",
        KERNEL_SIZES=Key([5, 3], r.each(r.ODD)),
        LEARNING_RATES=Key([0.08, 0.005, 0.01], r.each(r.at_least(0, 1000))),
        INVERSE_TEMPERATURES=Key([1.0, 0.65, 0.25], r.each(r.above(0, 1000))),
        POWERS=Key([0.7, 1.4, 1.0], r.each(r.above(0, 100))),
    ),
    group(
        "Expected norm of a channel's initial weights.",
        INITIAL_NORM=Key(25.0, r.above(0, r.MOST)),
    ),
    group(
        "Exponent q: the learning rate of a channel is multiplied by |norm of its weights - 1|^q.",
        RATE_POWER=Key(0.5, r.at_least(0, 100)),
    ),
    group(
        "The layers learn in this fraction of the iterations, from the first one on. Their "
        "learning rates decay linearly to 0. Then they are fixed, and only the read-out is "
        "trained.",
        LEARNING_FRACTION=Key(0.5, r.FRACTION),
    ),
    group(
        "Dropout probability of the read-out's features.",
        DROPOUT=Key(0.5, r.DROPOUT),
    ),
)

_NOPROP = (
    group(
        'NoPropClassifier: "dt" (discrete time, T blocks, each with a backbone of its own), '
        '"ct" (continuous time, one network) or "fm" (flow matching, one network). Of '
        "MODEL.FLOW_CLS, it reads only NUM_CLASSES.",
        VARIANT=Key("dt", r.one_of("dt", "ct", "fm")),
    ),
    group(
        "VARIANT dt: number of blocks T.",
        NUM_BLOCKS=Key(10, r.at_least(1, 1000), (has("VARIANT", "dt"),)),
    ),
    group(
        'Embeddings of the classes: "one_hot", or "learned" with EMBEDDING_DIM dimensions.',
        EMBEDDING=Key("one_hot", r.one_of("one_hot", "learned")),
        EMBEDDING_DIM=Key(20, r.SIZE, (has("EMBEDDING", "learned"),)),
    ),
    group(
        "A block gets the last stage of its backbone averaged over a grid of this many cells "
        "per side, and has this many hidden units.",
        FEATURE_GRID=Key(4, r.at_least(1, 1000)),
        HIDDEN_DIM=Key(256, r.EVEN),
    ),
    group(
        "Weight eta of the denoising losses of dt and ct.",
        ETA=Key(0.1, r.above(0, r.MOST), (has("VARIANT", "dt", "ct"),)),
    ),
    group(
        "VARIANT ct: logarithm of the signal-to-noise ratio at t = 0 and at t = 1.",
        LOG_SNR=Key([-5.0, 5.0], r.increasing_pair(r.from_to(-20, 20)), (has("VARIANT", "ct"),)),
    ),
    group(
        'VARIANT ct: weight of a time in the denoising loss, "snr" (the derivative of the '
        'signal-to-noise ratio, as in the paper) or "uniform" (1 at every time; the schedule is '
        "not trained).",
        TIME_WEIGHT=Key("snr", r.one_of("snr", "uniform"), (has("VARIANT", "ct"),)),
    ),
    group(
        "VARIANT ct and fm: number of ODE steps at inference.",
        NUM_STEPS=Key(20, r.at_least(1, 10_000), (has("VARIANT", "ct", "fm"),)),
    ),
    group(
        "Seed of the noise at inference.",
        NOISE_SEED=Key(0, r.NOISE_SEED),
    ),
)

SECTIONS = (
    Section("MODEL.LOCAL_LEARNING", _LOCAL_LEARNING, (read_by(*LOCAL_LEARNING),)),
    Section("MODEL.FORWARD_FORWARD", _FORWARD_FORWARD, (read_by(*FORWARD_FORWARD),)),
    Section("MODEL.SFF", _SFF, (read_by("StochasticForwardForwardClassifier"),)),
    Section("MODEL.CFF", _CFF, (read_by("ContrastiveForwardForwardClassifier"),)),
    Section("MODEL.SOFT_HEBB", _SOFT_HEBB, (read_by("SoftHebbClassifier"),)),
    Section("MODEL.NOPROP", _NOPROP, (read_by("NoPropClassifier"),)),
)
