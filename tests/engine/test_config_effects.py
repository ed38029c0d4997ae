"""Config keys that are set but have no effect are named in a warning."""

import logging
import re

import pytest
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from flowdet.config import flat_items
from flowdet.config.schema import KEYS, defaults
from flowdet.config.unread_keys import UNREAD_KEYS
from flowdet.detection.peers.fcos import FCOSDetector
from flowdet.engine import load_config
from flowdet.engine.config_effects import why_without_effect

PEER = "peers/voc_fcos_r18_frozen"
UNUSED = [
    ("digits_flow", "MODEL.FLOW_DET.NUM_STEPS", 4, "MODEL.FLOW_DET.INFERENCE_MODE is 'ensemble'"),
    ("digits_flow", "MODEL.FLOW_DET.SINGLE_STEP_BLOCK", 1, "INFERENCE_MODE is 'ensemble'"),
    ("digits_flow", "MODEL.FLOW_DET.COUPLING", "ordered", "TRAINING_STATES is 'rollout'"),
    ("paper/digits_flow", "MODEL.FLOW_DET.DENOISING_MIN_IOU", 0.6, "QUERIES is 0 and .* is 0"),
    ("digits_flow", "MODEL.FLOW_CLS.DROPOUT", 0.1, "META_ARCHITECTURE is 'FlowMatchingDetector'"),
    ("digits_flow", "MODEL.FLOW_DET.DETACH_LAYERS", True, "is 'FlowMatchingDetector'"),
    ("digits_flow", "MODEL.RESNETS.DEPTH", 101, "NAME is 'build_small_resnet_backbone'"),
    ("digits_flow", "INPUT.CROP.SIZE", [0.5, 0.5], "INPUT.CROP.ENABLED is False"),
    ("digits_flow", "INPUT.CROP_PADDING", 4, "META_ARCHITECTURE is 'FlowMatchingDetector'"),
    ("digits_flow", "SOLVER.MOMENTUM", 0.5, "SOLVER.OPTIMIZER is 'AdamW'"),
    ("digits_flow", "MODEL.RETINANET.NUM_CONVS", 2, "RetinaNet is not one of flowdet's detectors"),
    ("digits_flow", "TEST.AUG.ENABLED", True, "flowdet evaluates every image once"),
    ("digits_backprop", "MODEL.FLOW_DET.INFERENCE_MODE", "ensemble", "'BackpropDetector'"),
    (PEER, "MODEL.FLOW_DET.NUM_QUERIES", 9, "MODEL.META_ARCHITECTURE is 'FCOSDetector'"),
    ("cls/mnist_flow_cnn", "MODEL.FLOW_CLS.NUM_HEADS", 2, "MODEL.FLOW_CLS.BLOCK is "),
    ("cls/digits_flow_cnn", "MODEL.VIT.NUM_HEADS", 2, "NAME is 'build_cnn_backbone'"),
    ("cls/baselines/digits_noprop_fm_cnn", "MODEL.NOPROP.ETA", 0.5, "MODEL.NOPROP.VARIANT is 'fm'"),
]


@pytest.fixture
def warnings(caplog):
    """The warnings about keys without effect."""

    def texts():
        return [x.getMessage() for x in caplog.records if "has no effect" in x.getMessage()]

    caplog.set_level(logging.WARNING)
    return texts


@pytest.mark.parametrize("config, key, value, reason", UNUSED)
def test_an_override_without_effect_is_named(warnings, config, key, value, reason):
    mode = ["MODEL.FLOW_DET.INFERENCE_MODE", "ensemble"] if "'ensemble'" in reason else []
    load_config(config, [*mode, key, value])
    (text,) = warnings()
    assert text.startswith(f"{key} has no effect, because ") and "\n" not in text
    assert re.search(reason, text), text


def test_a_key_of_the_users_file_is_named_but_no_key_of_its_base(warnings, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("MODEL:\n  FLOW_CLS:\n    DROPOUT: 0.5\n")
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: base.yaml\nSOLVER:\n  NUM_DECAYS: 5\n  BASE_LR: 0.1\n")
    load_config(str(own), ["MODEL.META_ARCHITECTURE", "FlowMatchingDetector"])
    (text,) = warnings()
    assert text.startswith("SOLVER.NUM_DECAYS has no effect")


def test_the_config_of_a_run_is_no_reason_for_warnings(warnings, tmp_path):
    cfg = load_config("digits_flow", ["MODEL.FLOW_DET.INFERENCE_MODE", "ensemble"])
    cfg.MODEL.FLOW_CLS.DROPOUT = 0.5
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    load_config(str(path))
    assert warnings() == []


def test_a_default_value_and_a_key_in_use_are_not_named(warnings):
    load_config(
        "digits_flow",
        ["MODEL.FLOW_CLS.DROPOUT", 0.0, "MODEL.FLOW_DET.NUM_STEPS", 2, "SOLVER.BASE_LR", 0.1],
    )
    assert warnings() == []


def test_models_of_users(monkeypatch):
    """A derived model reads the keys of its parent, and another one may read any key."""
    derived = type("Derived", (FCOSDetector,), {})
    models = META_ARCH_REGISTRY._obj_map | {"Derived": derived, "Other": nn.Module}
    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", models)
    values = dict(flat_items(load_config(PEER)))
    unread = "MODEL.FLOW_DET.NUM_BLOCKS", "MODEL.NOPROP.ETA"
    for name, counts in (("FCOSDetector", False), ("Derived", False), ("Other", True)):
        values["MODEL.META_ARCHITECTURE"] = name
        assert [not why_without_effect(key, values) for key in unread] == [counts] * 2
        assert not why_without_effect("MODEL.FCOS.NORM", values)


def test_every_condition_is_about_a_declared_key():
    for name, key in KEYS.items():
        for part in (part for condition in key.only_with for part in condition.parts):
            assert part.key in KEYS, (name, part.key)


def test_every_key_is_declared_or_known_to_have_no_effect():
    values = dict(flat_items(load_config("digits_flow")))
    for name in defaults():
        assert (name in KEYS) != any(name.startswith(start) for start in UNREAD_KEYS), name
        assert name in KEYS or why_without_effect(name, values)
    for start in UNREAD_KEYS:
        assert any(name.startswith(start) for name in defaults()), start
