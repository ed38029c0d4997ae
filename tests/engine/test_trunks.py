"""Checkpoints of other models: their ResNet is used, or the error says what to set."""

import logging
import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file

from flowdet.engine import FlowDetCheckpointer, WholeModelCheckpointer
from flowdet.engine.trunks import find_trunk
from tests.detection.tiny import tiny_cfg

TORCHVISION_PIXELS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
MSRA_PIXELS = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}


def resnet_detector(seed=0, depth=50, stage="res4", **keys):
    """A detector with a narrow ResNet; `keys` of the config, with __ for a dot."""
    cfg = tiny_cfg("voc_flow_r50.yaml", IN_FEATURES=[stage])
    cfg.MODEL.RESNETS.merge_from_list(
        ["STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 16, "WIDTH_PER_GROUP", 4, "DEPTH", depth]
    )
    cfg.MODEL.RESNETS.OUT_FEATURES = [stage]
    if depth == 18:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(seed)
    return build_model(cfg)


def with_pixels(pixels):
    return {key.replace(".", "__"): value for key, value in pixels.items()}


@pytest.fixture(scope="module")
def donor():
    """The detector whose ResNet the checkpoints of other models contain."""
    return resnet_detector(seed=1, stage="res5")


def trunk_of(model):
    return dict(model.backbone.state_dict())


def detectron2_names(prefix, **parts):
    def rename(trunk):
        state = {f"{prefix}{name}": x for name, x in trunk.items()}
        return state | {f"{part}.weight": torch.zeros(2) for part in parts.values()}

    return rename


TO_TORCHVISION = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)


def torchvision_name(name):
    for pattern, replacement in TO_TORCHVISION:
        name = re.sub(pattern, replacement, name)
    return name


def torchvision_names(prefix, *parts):
    def rename(trunk):
        state = {f"{prefix}{torchvision_name(name)}": x for name, x in trunk.items()}
        counts = {
            f"{name.removesuffix('running_var')}num_batches_tracked": torch.tensor(1)
            for name in state
            if name.endswith("running_var")
        }
        return state | counts | {f"{part}.weight": torch.zeros(2) for part in parts}

    return rename


FAMILIES = {
    "torchvision": torchvision_names("", "fc"),
    "torchvision detector": torchvision_names("backbone.body.", "backbone.fpn.0", "rpn.head"),
    "DETR": torchvision_names("backbone.0.body.", "transformer.encoder", "bbox_embed"),
    "Lightning": torchvision_names("model.backbone.", "model.head"),
    "MoCo": torchvision_names("module.encoder_q.", "module.queue"),
    "MMDetection": torchvision_names("backbone.", "neck.convs", "bbox_head.cls"),
    "Faster R-CNN FPN": detectron2_names("backbone.bottom_up.", a="proposal_generator.x", b="roi"),
    "Faster R-CNN C4": detectron2_names("backbone.", a="proposal_generator.x", b="roi_heads.res5"),
    "detectron2 backbone": detectron2_names(""),
}


def load(model, path):
    return FlowDetCheckpointer(model).load(str(path))


def save(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def assert_trunk_only(model, donor, untouched):
    expected, initial = donor.state_dict(), untouched.state_dict()
    compared = 0
    for name, tensor in model.state_dict().items():
        source = expected if name.startswith("backbone.") else initial
        assert torch.equal(tensor, source[name]), name
        compared += name.startswith("backbone.")
    assert compared > 100


@pytest.fixture(scope="module")
def untouched():
    return resnet_detector(seed=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_resnet_of_another_model_fills_the_backbone(tmp_path, caplog, donor, untouched, family):
    path = save(tmp_path, FAMILIES[family](trunk_of(donor)))
    model = resnet_detector(seed=2)
    with caplog.at_level(logging.INFO, logger="flowdet"):
        load(model, path)
    assert_trunk_only(model, donor, untouched)
    (message,) = [x.getMessage() for x in caplog.records if "initializes the backbone" in x.msg]
    assert message.startswith(f"{path}: its ResNet-50 (")
    others = FAMILIES[family]({})
    assert all(name.split(".")[0] in message for name in others)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_state_dict_below_a_key(tmp_path, donor, untouched, key):
    model = resnet_detector(seed=2)
    load(model, save(tmp_path, {key: FAMILIES["DETR"](trunk_of(donor)), "epoch": 3}))
    assert_trunk_only(model, donor, untouched)


def test_feature_pyramid_is_used_too(tmp_path, caplog):
    keys = {
        "MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone",
        "MODEL__RESNETS__OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL__FPN__IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL__FPN__OUT_CHANNELS": 8,
        "MODEL__FLOW_DET__IN_FEATURES": ["p4"],
    }
    zoo, model = resnet_detector(1, **keys), resnet_detector(2, **keys)
    state = {name: x for name, x in zoo.state_dict().items() if name.startswith("backbone.")}
    with caplog.at_level(logging.INFO, logger="flowdet"):
        load(model, save(tmp_path, {"model": state | {"roi_heads.x.weight": torch.zeros(2)}}))
    assert "1 other tensors are not used (roi_heads)" in caplog.text
    for name, tensor in state.items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_detector_with_only_such_a_backbone_is_refused(tmp_path, donor, family):
    path = save(tmp_path, FAMILIES[family](trunk_of(donor)))
    with pytest.raises(ValueError, match=r"lacks \d+ of the model's weights \(in flow, heads"):
        WholeModelCheckpointer(resnet_detector()).load(str(path))


def test_model_zoo_pickle_with_arrays(tmp_path, caplog, donor, untouched):
    state = FAMILIES["Faster R-CNN FPN"](trunk_of(donor))
    arrays = {name: x.numpy() for name, x in state.items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    model = resnet_detector(seed=2)
    load(model, path)
    assert_trunk_only(model, donor, untouched)
    # the config of voc_flow_r50 has the pixels of torchvision
    assert 'set INPUT.FORMAT BGR MODEL.PIXEL_MEAN "[103.53, 116.28, 123.675]"' in caplog.text
    assert "MODEL.RESNETS.STRIDE_IN_1X1 True" in caplog.text


def caffe2_name(name):
    name = name.replace("stem.conv1.norm.", "res_conv1_bn.").replace("stem.conv1.", "conv1.")
    name = re.sub(r"^res(\d)\.(\d+)\.shortcut", r"res\1_\2_branch1", name)
    name = re.sub(
        r"^res(\d)\.(\d+)\.conv(\d)",
        lambda m: f"res{m[1]}_{m[2]}_branch2{'abc'[int(m[3]) - 1]}",
        name,
    )
    name = name.replace(".norm.", "_bn.")
    return name.replace("_bn.weight", "_bn_s").replace("_bn.bias", "_bn_b").replace(".weight", "_w")


def test_caffe2_file(tmp_path, caplog, donor):
    trunk = {name: x for name, x in trunk_of(donor).items() if "running" not in name}
    arrays = {caffe2_name(name): x.numpy() for name, x in trunk.items()}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(arrays | {"fc1000_w": np.zeros((2, 2), np.float32)}))
    model = resnet_detector(seed=2, **with_pixels(MSRA_PIXELS))
    load(model, path)
    weights = dict(donor.backbone.named_parameters())
    for name, tensor in model.backbone.named_parameters():
        assert torch.equal(tensor, weights[name]), name
    assert "was trained with other pixels" not in caplog.text
    with pytest.raises(ValueError, match="ResNet-50, but .* a ResNet-101"):
        load(resnet_detector(depth=101), path)


@pytest.mark.parametrize(
    "pixels, expected",
    [
        (TORCHVISION_PIXELS, None),
        (MSRA_PIXELS, "set INPUT.FORMAT RGB .*MODEL.PIXEL_STD.*MODEL.RESNETS.STRIDE_IN_1X1 False"),
        (TORCHVISION_PIXELS | {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}, "set MODEL.PIXEL_STD"),
        (
            TORCHVISION_PIXELS | {"MODEL.RESNETS.STRIDE_IN_1X1": True},
            "set MODEL.RESNETS.STRIDE_IN_1X1 False",
        ),
    ],
)
def test_warning_if_the_config_has_other_pixels(tmp_path, caplog, donor, pixels, expected):
    path = save(tmp_path, FAMILIES["DETR"](trunk_of(donor)))
    load(resnet_detector(**with_pixels(pixels)), path)
    warnings = [x.getMessage() for x in caplog.records if "other pixels" in x.msg]
    assert len(warnings) == (expected is not None)
    assert not expected or re.search(expected, warnings[0])


def test_pixels_that_the_checkpoint_contains(tmp_path, caplog, donor):
    state = FAMILIES["Faster R-CNN FPN"](trunk_of(donor))
    state["pixel_mean"], state["pixel_std"] = torch.full((3, 1, 1), 7.0), torch.ones(3, 1, 1)
    load(resnet_detector(), save(tmp_path, {"model": state}))
    assert 'set MODEL.PIXEL_MEAN "[7.0, 7.0, 7.0]" MODEL.PIXEL_STD "[1.0, 1.0, 1.0]"' in caplog.text


@pytest.mark.parametrize("family", ["DETR", "Faster R-CNN FPN"])
@pytest.mark.parametrize(
    "keys, message",
    [
        ({"depth": 101}, "a ResNet-50, but the model has a ResNet-101: set MODEL.RESNETS.DEPTH 50"),
        ({"depth": 18}, "a ResNet-50, but the model has a ResNet-18: set MODEL.RESNETS.DEPTH 50"),
        ({"MODEL__RESNETS__NORM": "LN"}, "another normalization.*MODEL.RESNETS.NORM.*FrozenBN"),
        ({"MODEL__RESNETS__WIDTH_PER_GROUP": 8}, r"conv1.weight \(4.*MODEL.RESNETS"),
    ],
)
def test_another_resnet_is_refused(tmp_path, donor, family, keys, message):
    path = save(tmp_path, FAMILIES[family](trunk_of(donor)))
    with pytest.raises(
        ValueError, match=f"weights.pth does not fit the model: .*{message}"
    ) as info:
        load(resnet_detector(**keys), path)
    assert "\n" not in str(info.value)


def test_a_stage_that_the_checkpoint_lacks(tmp_path, donor):
    trunk = {name: x for name, x in trunk_of(donor).items() if not name.startswith("res5")}
    path = save(tmp_path, FAMILIES["Faster R-CNN C4"](trunk))
    with pytest.raises(ValueError, match=r"ends with res4.*OUT_FEATURES and IN_FEATURES"):
        load(resnet_detector(stage="res5"), path)


def test_tensors_that_the_checkpoint_lacks(tmp_path, donor):
    state = FAMILIES["DETR"](trunk_of(donor))
    del state["backbone.0.body.layer2.1.conv2.weight"]
    with pytest.raises(ValueError, match="lacks 1 tensors of the model's, such as res3.1.conv2"):
        load(resnet_detector(), save(tmp_path, state))


def test_two_resnets_in_a_checkpoint_are_refused(tmp_path, donor):
    trunk = trunk_of(donor)
    state = torchvision_names("encoder_q.")(trunk) | torchvision_names("encoder_k.")(trunk)
    with pytest.raises(ValueError, match=r"several ResNets \(encoder_q.\*, encoder_k.\*\)"):
        load(resnet_detector(), save(tmp_path, state))


def test_own_run_of_another_depth_is_refused(tmp_path):
    FlowDetCheckpointer(resnet_detector(depth=101), str(tmp_path)).save("run")
    with pytest.raises(ValueError, match="a ResNet-101, but .* ResNet-50"):
        load(resnet_detector(), tmp_path / "run.pth")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_own_model_that_another_program_wrapped(tmp_path, prefix):
    trained = resnet_detector(seed=1)
    state = {f"{prefix}{name}": x for name, x in trained.state_dict().items()}
    model = resnet_detector(seed=2)
    WholeModelCheckpointer(model).load(str(save(tmp_path, {"state_dict": state})))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


class Yolo:
    """Stands for the class of another program."""


@pytest.mark.parametrize("content", [{"model": Yolo()}, {"state_dict": {}, "callbacks": Yolo()}])
def test_file_with_python_objects(tmp_path, content):
    with pytest.raises(ValueError, match=r"contains Python objects \(.*Yolo.*state_dict\(\)"):
        load(resnet_detector(), save(tmp_path, content))


def test_safetensors_file(tmp_path, donor, untouched):
    path = tmp_path / "model.safetensors"
    save_file(FAMILIES["DETR"](trunk_of(donor)), path)
    model = resnet_detector(seed=2)
    load(model, path)
    assert_trunk_only(model, donor, untouched)


def test_state_dict_without_a_resnet():
    assert find_trunk({"conv1.weight": 0, "layer2.0.conv1.weight": 0}) is None
    assert find_trunk({"blocks.0.attn.qkv.weight": 0}) is None
