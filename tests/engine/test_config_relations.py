"""Values of config keys that must fit the values of others: one line that names both keys."""

import pytest

from flowdet.engine import load_config
from flowdet.engine.config_values import check_training_values

CASCADE = [
    *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]
FASTER = "peers/voc_faster_rcnn_r18_frozen"
CROP = ["INPUT.CROP.ENABLED", True]
WEIGHTS = [f"MODEL.FLOW_DET.{name}_WEIGHT" for name in ("CLASS", "BBOX", "GIOU")]
# config, overrides, the keys that the message names
CASES = [
    ("digits_flow", ["MODEL.FLOW_DET.HIDDEN_DIM", 48], ("HIDDEN_DIM", "NECK_NORM")),
    ("peers/voc_fcos_r18_frozen", ["MODEL.FLOW_DET.HIDDEN_DIM", 48], ("HIDDEN_DIM", "NORM")),
    ("digits_flow", ["MODEL.RESNETS.NORM", "GN", "MODEL.SMALL_RESNET.CHANNELS", [8, 8, 16]], ()),
    ("digits_flow", ["MODEL.FLOW_DET.NECK_NORM", "SyncBN"], ("NECK_NORM", "GPU")),
    ("digits_flow", ["MODEL.FLOW_DET.BLOCK", "mlp"], ("BLOCK", "transformer")),
    ("digits_flow", [x for key in WEIGHTS for x in (key, 0)], WEIGHTS),
    ("cls/baselines/digits_sff_cnn", ["MODEL.SFF.COMPRESSION_WEIGHT", 0], None),
    (
        "cls/baselines/digits_sff_cnn",
        ["MODEL.SFF.COMPRESSION_WEIGHT", 0, "MODEL.SFF.DIVERSITY_WEIGHT", 0],
        ("COMPRESSION_WEIGHT", "DIVERSITY_WEIGHT"),
    ),
    ("digits_flow", [*CROP, "INPUT.CROP.SIZE", [1.5, 0.5]], ("INPUT.CROP.TYPE",)),
    ("digits_flow", [*CROP, "INPUT.CROP.TYPE", "absolute"], ("INPUT.CROP.SIZE",)),
    (
        "digits_flow",
        [*CROP, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [30, 20]],
        ("smallest",),
    ),
    ("digits_flow", [*CROP, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [30, 20]], None),
    (
        "digits_flow",
        ["SOLVER.OPTIMIZER", "SGD", "SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0],
        ("SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
    ),
    (
        "digits_flow",
        ["SOLVER.IMS_PER_BATCH", 16, "SOLVER.REFERENCE_WORLD_SIZE", 3],
        ("SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.IMS_PER_BATCH"),
    ),
    (FASTER, CASCADE, None),
    (FASTER, CASCADE[:2], ("CLS_AGNOSTIC_BBOX_REG", "CascadeROIHeads")),
    (FASTER, [*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", [0.5]], ("IOUS", "BBOX_REG_WEIGHTS")),
    (
        FASTER,
        [*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", [0.6, 0.6, 0.7]],
        ("IOUS", "IOU_THRESHOLDS"),
    ),
]


@pytest.mark.parametrize("config, overrides, named", CASES)
def test_values_that_must_fit_others(config, overrides, named):
    def check():
        check_training_values(load_config(config, ["MODEL.DEVICE", "cpu", *overrides]))

    if named is None:
        return check()
    with pytest.raises(ValueError) as error:
        check()
    text = str(error.value)
    assert "\n" not in text and all(name in text for name in named), text


def test_a_sampler_that_needs_a_key_of_another_detectron2():
    cfg = load_config("digits_flow", ["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"])
    if "RANDOM_SUBSET_RATIO" in cfg.DATALOADER:
        return check_training_values(cfg)
    with pytest.raises(ValueError, match="SAMPLER_TRAIN is .*this version of detectron2 has no"):
        check_training_values(cfg)
