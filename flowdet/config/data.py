"""The keys of datasets, augmentation and loading."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import CLASSIFIERS, DETECTORS, is_set, read_by
from flowdet.config.declaration import Key, Section, for_training, group

_DETECTION = read_by(*DETECTORS)
_CLASSIFICATION = read_by(*CLASSIFIERS)

_DATASETS = (
    group(
        "Folder of a detection dataset in one of the layouts of docs/custom_datasets.md. "
        "It replaces DATASETS.TRAIN and TEST. `tools/train_net.py --data` sets it.",
        PATH=Key("", r.TEXT),
    ),
    group(
        'Format of the dataset in DATASETS.PATH, such as "COCO". "" recognizes it.',
        FORMAT=Key("", r.TEXT, (is_set("DATASETS.PATH"),)),
    ),
    group(
        'What a box, image or annotation of DATASETS.PATH that cannot be used does: "stop" '
        '(the training) or "skip" (leave it out, count it and list it in the log and the '
        "report).",
        ON_PROBLEM=Key("stop", r.one_of("stop", "skip"), (is_set("DATASETS.PATH"),)),
    ),
    group(
        "If DATASETS.PATH has no validation split: fraction of its training images that is "
        "held out for it, and the seed of the selection. 0 trains on all images, without "
        "evaluation.",
        HOLD_OUT=Key(0.2, r.from_to_below(0, 1), (is_set("DATASETS.PATH"),)),
        HOLD_OUT_SEED=Key(0, r.at_least(0, 2**31 - 1), (is_set("DATASETS.PATH"),)),
    ),
    *for_training(
        group(
            "Whether objects that are marked difficult (VOC) are used in training. The "
            "evaluator always ignores them.",
            TRAIN_ON_DIFFICULT=Key(False, r.TRUE_OR_FALSE, (_DETECTION,)),
        ),
    ),
    group(
        "Whether missing classification datasets are downloaded (by torchvision).",
        DOWNLOAD=Key(False, r.TRUE_OR_FALSE, (_CLASSIFICATION,)),
    ),
)

_INPUT = (
    group(
        "Lowest and highest pixel value of images that do not have 8 bits per channel. "
        "They are scaled from this range to 0..255, and a value outside of it is an error. "
        "[] is the full range of the pixel type: [0, 65535] for 16 bits, [0, 1] for "
        "floats. A 12-bit camera needs [0, 4095].",
        VALUE_RANGE=Key([], r.VALUE_RANGE, example="[0, 4095]", element=float),
    ),
    group(
        "(height, width) to which every image is resized, in training and testing. [0, 0] "
        "is off: then INPUT.MIN_SIZE_* and MAX_SIZE_* apply.",
        FIXED_SIZE=Key([0, 0], r.IMAGE_SIZE, example="[480, 640]"),
    ),
    *for_training(
        group(
            "Augmentation in detection: brightness, contrast and saturation are multiplied by "
            "random factors from 1 - x to 1 + x, where x is this value. 0 is off.",
            COLOR_JITTER=Key(0.0, r.from_to_below(0, 1), (_DETECTION,)),
        ),
        group(
            "Augmentation in detection: the image is scaled by a random factor from this "
            "range, then cropped or padded to INPUT.FIXED_SIZE. [1, 1] is off.",
            SCALE_JITTER=Key([1.0, 1.0], r.SCALE_RANGE, (_DETECTION, is_set("INPUT.FIXED_SIZE"))),
        ),
        group(
            "Augmentation in classification: number of pixels of padding before a random crop "
            "of the original size. 0 is off. (detectron2's INPUT.RANDOM_FLIP also applies to "
            "classification.)",
            CROP_PADDING=Key(0, r.at_least(0, 10_000), (_CLASSIFICATION,)),
        ),
        group(
            "Augmentation in classification: smallest fraction of the image's area in a random "
            "resized crop. 0 is off.",
            RESIZED_CROP_AREA=Key(0.0, r.FRACTION, (_CLASSIFICATION,)),
        ),
        group(
            'Augmentation in classification: policy of torchvision\'s AutoAugment, "cifar10", '
            '"imagenet" or "svhn". "" is off.',
            AUTO_AUGMENT=Key(
                "", r.one_of("", "cifar10", "imagenet", "svhn"), (_CLASSIFICATION,), "cifar10"
            ),
        ),
        group(
            "Augmentation in classification: probability that a random rectangle of the image "
            "is erased.",
            RANDOM_ERASING=Key(0.0, r.FRACTION, (_CLASSIFICATION,)),
        ),
        group(
            "Augmentation in classification: largest angle of a random rotation, in degrees.",
            RANDOM_ROTATION=Key(0.0, r.from_to(0, 180), (_CLASSIFICATION,)),
        ),
        group(
            "Augmentation in classification: whether every training image is also given in a "
            "second, independently augmented view. Only ContrastiveForwardForwardClassifier "
            "uses it.",
            SECOND_VIEW=Key(
                False, r.TRUE_OR_FALSE, (read_by("ContrastiveForwardForwardClassifier"),)
            ),
        ),
    ),
)

_DATALOADER = (
    group(
        "Memory limit in GiB. The images of a classification dataset are decoded only once "
        "and kept in memory if they need at most this much.",
        IN_MEMORY_GIB=Key(2.0, r.WEIGHT, (_CLASSIFICATION,)),
    ),
)

SECTIONS = (
    Section("DATASETS", _DATASETS),
    Section("INPUT", _INPUT),
    Section("DATALOADER", _DATALOADER),
)
