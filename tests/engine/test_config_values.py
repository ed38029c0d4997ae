"""Values that are out of range or unknown: the error has the key, the value and an example."""

import pytest
import torch
from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.config.config_files import list_configs
from flowdet.config.errors import ConfigError
from flowdet.engine import load_config, resolve_config
from flowdet.engine.config_values import check_device, check_training_values

# for inference and training
INVALID = [
    ("MODEL.DEVICE", "gpu", "cuda, cuda:N or cpu"),
    ("MODEL.DEVICE", "GPU", "MODEL.DEVICE cuda"),
    ("MODEL.DEVICE", "0", "MODEL.DEVICE cuda"),
    ("MODEL.DEVICE", "cuda0", "MODEL.DEVICE cuda"),
    ("MODEL.DEVICE", "", "MODEL.DEVICE cuda"),
    ("MODEL.DEVICE", "xla", "MODEL.DEVICE cuda"),
    ("MODEL.META_ARCHITECTURE", "FasterRCNN", "BackpropDetector, .*FlowMatchingDetector"),
    ("MODEL.BACKBONE.NAME", "resnet50", "build_resnet_backbone"),
    ("MODEL.BACKBONE.FREEZE_AT", "-1", "from 0 to 5"),
    ("MODEL.BACKBONE.FREEZE_AT", "6", "from 0 to 5"),
    ("MODEL.PIXEL_MEAN", "[0, 0]", "3 values"),
    ("MODEL.PIXEL_MEAN", "[1]", "3 values"),
    ("MODEL.PIXEL_STD", "[1, 1]", "3 values, each above 0"),
    ("MODEL.PIXEL_STD", "[1, 0, 1]", "above 0"),
    ("MODEL.RESNETS.DEPTH", "49", "18, 34, 50, 101, 152"),
    ("MODEL.RESNETS.NORM", "BatchNorm", "FrozenBN"),
    ("MODEL.RESNETS.OUT_FEATURES", "[layer4]", "res4"),
    ("MODEL.RESNETS.OUT_FEATURES", "[]", "at least one value"),
    ("MODEL.RESNETS.RES5_DILATION", "3", "one of 1, 2"),
    ("MODEL.SMALL_RESNET.CHANNELS", "[8, 8]", "3 values"),
    ("MODEL.SMALL_RESNET.BLOCKS", "[0, 1]", "at least 1"),
    ("MODEL.FLOW_DET.IN_FEATURES", "[]", "res4"),
    ("MODEL.FLOW_DET.HIDDEN_DIM", "0", "at least 1"),
    ("MODEL.FLOW_DET.DROPOUT", "1.5", "from 0 to below 1"),
    ("MODEL.FLOW_DET.NOISE_SCALE", "-0.1", "at least 0"),
    ("MODEL.FLOW_DET.PREDICTION", "speed", "velocity, target"),
    ("MODEL.FLOW_DET.NECK_NORM", "gn", "GN"),
    ("MODEL.FLOW_DET.NECK_BLOCKS", "-1", "at least 0"),
    ("MODEL.FLOW_DET.BOX_SAMPLES", "-1", "at least 0"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", r"a registered name \(RPN\)"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", r"a registered name \(RPN\)"),
    ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "-1", "at least 0"),
    ("MODEL.ANCHOR_GENERATOR.NAME", "foo", r"a registered name \(DefaultAnchorGenerator\)"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[]]", "numbers above 0, or such a list for every feature"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[]", "numbers above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 0]]", "numbers above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], 16]", "numbers above 0"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[-1]]", "numbers above 0"),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", "1", "from 0 to below 1"),
    ("MODEL.RPN.HEAD_NAME", "foo", r"a registered name \(StandardRPNHead\)"),
    ("MODEL.RPN.IN_FEATURES", "[]", "a list of at least one value, each a text that is not empty"),
    ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "0", "at least 1"),
    ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "0", "at least 1"),
    ("MODEL.RPN.POST_NMS_TOPK_TEST", "-1", "at least 1"),
    ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
    ("MODEL.RPN.POSITIVE_FRACTION", "0", "above 0 and at most 1"),
    ("MODEL.RPN.POSITIVE_FRACTION", "1.5", "above 0 and at most 1"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[]", "at least one value, each above 0 and at most 1"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "in ascending order"),
    ("MODEL.RPN.IOU_LABELS", "[0, 1]", "must have 3 values, one more than"),
    ("MODEL.RPN.IOU_LABELS", "[0, 2, 1]", "-1 .ignored., 0 .background. and 1 .object."),
    ("MODEL.RPN.IOU_LABELS", "[1, 0, -1]", "last value is 1"),
    ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "l2", "smooth_l1, giou, diou, ciou"),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", "[1, 1]", "4 values, each above 0"),
    ("MODEL.RPN.SMOOTH_L1_BETA", "-1", "at least 0"),
    ("MODEL.RPN.LOSS_WEIGHT", "-1", "at least 0"),
    ("MODEL.RPN.NMS_THRESH", "1.5", "from 0 to 1"),
    ("MODEL.RPN.CONV_DIMS", "[0]", "each -1 .that of the feature maps. or at least 1"),
    ("MODEL.ROI_HEADS.NAME", "foo", "CascadeROIHeads, Res5ROIHeads, StandardROIHeads"),
    ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[]", "at least one value"),
    ("MODEL.ROI_HEADS.IOU_LABELS", "[]", "0 occurs"),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
    ("MODEL.ROI_HEADS.POSITIVE_FRACTION", "-0.5", "above 0 and at most 1"),
    ("MODEL.ROI_BOX_HEAD.NAME", "foo", "FastRCNNConvFCHead"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated", "ROIPool, ROIAlign, ROIAlignV2"),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "0", "at least 1"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", "0", "at least 1"),
    ("MODEL.ROI_BOX_HEAD.NUM_CONV", "-1", "at least 0"),
    ("MODEL.ROI_BOX_HEAD.NORM", "foo", "one of"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "", "smooth_l1, giou, diou, ciou"),
    ("MODEL.FLOW_CLS.TOPOLOGY", "tree", "parallel, sequential"),
    ("MODEL.FLOW_CLS.EVAL_STEPS", "[0]", "at least 1"),
    ("MODEL.NOPROP.LOG_SNR", "[5, -5]", "each from -20 to 20, of which the second is larger"),
    ("DATASETS.ON_PROBLEM", "ignore", "one of stop, skip"),
    ("DATASETS.HOLD_OUT", "1.0", "from 0 to below 1"),
    ("DATASETS.HOLD_OUT", "-0.1", "from 0 to below 1"),
    ("INPUT.FORMAT", "rgb", "one of RGB, BGR; write, for example, INPUT.FORMAT RGB"),
    ("INPUT.FORMAT", "L", "one of RGB, BGR"),
    ("INPUT.FORMAT", "YUV-BT.601", "one of RGB, BGR"),
    ("INPUT.FIXED_SIZE", "[640]", "height, width"),
    ("INPUT.FIXED_SIZE", "640", "height, width"),
    ("INPUT.FIXED_SIZE", "[640, 0]", "height, width"),
    ("INPUT.RANDOM_FLIP", "yes", "horizontal, vertical, none"),
    ("MODEL.FLOW_DET.NUM_QUERIES", "-1", "at least 1"),
    ("MODEL.RESNETS.OUT_FEATURES", "[res4]", "only stem, res2, res3"),
    ("INPUT.VALUE_RANGE", "[4095, 0]", "lowest, highest"),
    ("INPUT.VALUE_RANGE", "['a', 'b']", "a list of numbers"),
    ("INPUT.MIN_SIZE_TEST", "-1", "at least 0"),
    ("INPUT.MAX_SIZE_TEST", "0", "at least 1"),
    ("DATALOADER.NUM_WORKERS", "-1", "at least 0"),
    ("TEST.DETECTIONS_PER_IMAGE", "0", "at least 1"),
    ("OUTPUT_DIR", "", "the path of a folder"),
    ("SEED", "4294967296", "below 2147483648"),
]

# only for training
INVALID_IN_TRAINING = [
    ("SOLVER.MAX_ITER", "0", "at least 1 without SOLVER.MAX_EPOCHS"),
    ("SOLVER.MAX_ITER", "-5", "at least 0 and at most 1000000000"),
    ("SOLVER.MAX_EPOCHS", "-1", "at least 0"),
    ("SOLVER.BASE_LR", "0", "above 0"),
    ("SOLVER.BASE_LR", "-0.1", "above 0"),
    ("SOLVER.BASE_LR_END", "9", "at most SOLVER.BASE_LR"),
    ("SOLVER.BASE_LR_END", "-1", "at least 0"),
    ("SOLVER.MOMENTUM", "1", "below 1"),
    ("SOLVER.WEIGHT_DECAY", "-1", "at least 0"),
    ("SOLVER.WEIGHT_DECAY_NORM", "-1", "at least 0"),
    ("SOLVER.WEIGHT_DECAY_BIAS", "-1", "None"),
    ("SOLVER.GAMMA", "0", "above 0 and at most 1"),
    ("SOLVER.STEPS", "[30, 20]", "increasing"),
    (
        "SOLVER.STEPS",
        "[-1]",
        "a list of increasing numbers of iterations, each at least 0 and at most 1000000000",
    ),
    ("SOLVER.STEP_EPOCHS", "[3, 3]", "increasing"),
    ("SOLVER.LR_SCHEDULER_NAME", "cosine", "WarmupCosineLR"),
    ("SOLVER.WARMUP_FACTOR", "2", "from 0 to 1"),
    ("SOLVER.WARMUP_ITERS", "-1", "at least 0"),
    ("SOLVER.WARMUP_EPOCHS", "-1", "at least 0"),
    ("SOLVER.WARMUP_METHOD", "exp", "linear, constant"),
    ("SOLVER.CHECKPOINT_PERIOD", "0", "at least 1"),
    ("SOLVER.CHECKPOINT_EPOCHS", "-1", "at least 0"),
    ("SOLVER.BACKBONE_MULTIPLIER", "-1", "at least 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "l2", "value, norm, full_model"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0", "above 0"),
    ("INPUT.MIN_SIZE_TRAIN", "[]", "at least one value"),
    ("INPUT.MIN_SIZE_TRAIN", "[-3]", "at least 0"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "all", "choice, range"),
    ("INPUT.MAX_SIZE_TRAIN", "0", "at least 1"),
    ("INPUT.CROP.TYPE", "random", "relative_range"),
    ("INPUT.CROP.SIZE", "[0.5]", "2 values"),
    ("TEST.EVAL_PERIOD", "-1", "at least 0"),
    ("TEST.EVAL_EPOCHS", "-1", "at least 0"),
    ("TEST.REPORT_IMAGES", "-1", "at least 0"),
    ("MODEL.FLOW_DET.CLASS_WEIGHT", "-1", "at least 0"),
    ("MODEL.FLOW_DET.BBOX_WEIGHT", "-1", "at least 0"),
    ("MODEL.FLOW_DET.ITERS_PER_EPOCH", "-1", "at least 0"),
]


def assert_message(error, key, typed):
    text = str(error.value)
    assert text.startswith(f"{key} is ") and typed.strip("[]").split(",")[0] in text
    assert "\n" not in text


@pytest.mark.parametrize("key, typed, message", INVALID)
def test_invalid_value(key, typed, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config("digits_flow", [key, typed])
    assert_message(error, key, typed)


@pytest.mark.parametrize("character", ["?", "\n", "\t", "\0", "\x1b", "\udcff"])
def test_output_folder_whose_checkpoints_could_not_be_read(character):
    with pytest.raises(ConfigError, match="OUTPUT_DIR is .*, without [?] and control characters"):
        load_config("digits_flow", ["OUTPUT_DIR", f"a{character}b"])


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "MODEL.FLOW_DET.FEATURE_CACHE_DIR"])
@pytest.mark.parametrize("folder", ["a" * 256, "é" * 128, "/".join(["b" * 200] * 18)])
def test_a_folder_whose_name_is_too_long_is_refused(key, folder):
    with pytest.raises(ConfigError, match=f"{key} is .*at most 3500 bytes, and 255 for each part"):
        load_config("digits_flow", [key, folder])


@pytest.mark.parametrize("key, typed, message", INVALID_IN_TRAINING)
def test_invalid_value_for_training_does_not_stop_inference(key, typed, message):
    cfg = load_config("digits_flow", [key, typed])
    with pytest.raises(ValueError, match=message) as error:
        resolve_config(cfg)
    assert_message(error, key, typed)


def test_iterations_may_be_zero_if_epochs_are_given():
    check_training_values(load_config("digits_flow", ["SOLVER.MAX_EPOCHS", "2"]))
    cfg = load_config("digits_flow", ["SOLVER.MAX_ITER", "0", "SOLVER.MAX_EPOCHS", "2"])
    check_training_values(cfg)


def test_range_of_sizes_needs_two_values():
    words = ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", "640"]
    with pytest.raises(ValueError, match=r"INPUT.MIN_SIZE_TRAIN is \(640,\).*smallest, largest"):
        check_training_values(load_config("digits_flow", words))


@pytest.mark.parametrize(
    "key, typed, value",
    [
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", "256", 64),
        ("MODEL.RESNETS.RES5_DILATION", "2", 1),
        ("MODEL.RESNETS.NUM_GROUPS", "32", 1),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]", r"\[False"),
    ],
)
def test_keys_of_a_shallow_resnet(key, typed, value):
    words = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", key, typed]
    with pytest.raises(ValueError, match=f"{key} is .*must be {value}.* for a ResNet-18"):
        load_config("voc_flow_r50", words)


def test_a_bad_value_of_an_unused_backbone_is_no_error():
    cfg = load_config("digits_flow", ["MODEL.RESNETS.DEPTH", "18"])
    assert cfg.MODEL.BACKBONE.NAME == "build_small_resnet_backbone"


@pytest.mark.parametrize("name, hint", [("cuda:3", "2 GPUs.*cuda:0"), ("mps", "DEVICE cpu")])
def test_device_that_the_machine_does_not_have(monkeypatch, name, hint):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is '{name}', but torch finds .*{hint}"):
        check_device(CfgNode({"MODEL": {"DEVICE": name}}))


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_device_that_the_machine_has(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(CfgNode({"MODEL": {"DEVICE": name}}))


def test_every_config_is_valid_for_training(caplog):
    for name in list_configs():
        caplog.clear()
        cfg = load_config(name)
        check_training_values(cfg)
        # no key is set that has no effect
        assert caplog.messages == []
        # a run writes its values as a list of keys, which must be valid again
        words = [x for key, v in flat_items(cfg) if not isinstance(v, CfgNode) for x in (key, v)]
        assert load_config(name, words) == cfg
