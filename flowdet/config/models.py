"""The keys of all models, and those of flowdet's backbones."""

from __future__ import annotations

from flowdet.config import rules as r
from flowdet.config.conditions import CNN, SMALL_RESNET, VIT, backbone
from flowdet.config.declaration import Key, Section, group

_TOP = (
    group(
        "Modules that are imported before the model is built: names, or paths of .py "
        "files. They register your own parts, such as a backbone (docs/extending.md).",
        IMPORTS=Key([], r.each(r.NAME, optional=True), element=str),
    ),
)

_MODEL = (
    group(
        "For fine-tuning on other classes: if the classes of MODEL.WEIGHTS differ from "
        "those of the dataset, do not load the tensors that depend on the classes, so that "
        "they start from random values. If False, other classes are an error.",
        REINIT_CLASSES=Key(False, r.TRUE_OR_FALSE),
    ),
    group(
        "Class names. A run takes them from its datasets and saves them in its "
        "config.yaml, so that its model can be used without the datasets.",
        CLASS_NAMES=Key([], r.each(r.CLASS_NAME, optional=True), element=str),
    ),
    group(
        "The id of every class of a detector in the JSON files of tools/demo.py, in the "
        "order of CLASS_NAMES. A run takes the category ids of its COCO dataset, or else "
        "0, 1, 2, ..., and saves them in its config.yaml. They stay the same if the "
        "dataset is changed later.",
        CATEGORY_IDS=Key([], r.CATEGORY_IDS, example="[1, 2]"),
    ),
)

GENERAL = (
    Section("", _TOP),
    Section("MODEL", _MODEL),
)


_SMALL_RESNET = (
    group(
        "Numbers of channels of the stem, res2 and res3 (strides 4, 4, 8) of "
        '"build_small_resnet_backbone", and numbers of residual blocks of res2 and res3.',
        CHANNELS=Key([32, 32, 128], r.each(r.SIZE, 3)),
        BLOCKS=Key([1, 2], r.each(r.at_least(1, 1000), 2)),
    ),
)

_CNN = (
    group(
        'Numbers of channels of the stages of "build_cnn_backbone". Each stage halves the '
        "size of its input.",
        CHANNELS=Key([96, 384, 1536], r.each(r.SIZE)),
    ),
)

_VIT = (
    group(
        '"build_vit_backbone": torchvision\'s VisionTransformer for images of '
        'INPUT.FIXED_SIZE. STEM is "patch" (a linear projection of patches) or "conv" '
        "(convolutions to equally many tokens).",
        PATCH_SIZE=Key(4, r.SIZE),
        HIDDEN_DIM=Key(128, r.SIZE),
        NUM_LAYERS=Key(5, r.at_least(1, 1000)),
        NUM_HEADS=Key(4, r.SIZE),
        MLP_RATIO=Key(4.0, r.above(0, 1000)),
        DROPOUT=Key(0.0, r.DROPOUT),
        STEM=Key("patch", r.one_of("patch", "conv")),
    ),
)

BACKBONES = (
    Section("MODEL.SMALL_RESNET", _SMALL_RESNET, (backbone(SMALL_RESNET),)),
    Section("MODEL.CNN", _CNN, (backbone(CNN),)),
    Section("MODEL.VIT", _VIT, (backbone(VIT),)),
)
