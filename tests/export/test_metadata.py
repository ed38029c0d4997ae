"""The metadata of exported files."""

import json
from types import SimpleNamespace

import pytest

import tests.flowcls.tiny as classifiers
from flowdet.export import graph_of, metadata_of
from tests.detection.tiny import tiny_cfg, tiny_model

NAMES = ["cat", "dog", "owl"]


def metadata(cfg, model, size, noise_input=False, averaged=False, **settings):
    predictor = SimpleNamespace(cfg=cfg, class_names=NAMES, averaged=averaged)
    texts = metadata_of(predictor, graph_of(model.eval(), size, **settings), noise_input)
    assert all(isinstance(text, str) for text in texts.values())
    return texts


def test_flow_detector():
    keys = {"NUM_STEPS": 2, "NOISE_SCALE": 0.5, "SCORE_THRESHOLD": 0.1}
    texts = metadata(tiny_cfg(**keys), tiny_model(**keys), (48, 64), True, True, suppress=False)
    assert json.loads(texts["class_names"]) == NAMES
    assert (texts["task"], texts["mode"]) == ("detection", "multi_step-2")
    assert (texts["height"], texts["width"], texts["input_format"]) == ("48", "64", "RGB")
    assert (texts["weights"], texts["nms"], texts["noise_input"]) == ("average", "false", "true")
    assert json.loads(texts["noise_shape"]) == [6, 32]
    assert float(texts["noise_scale"]) == 0.5 and float(texts["score_threshold"]) == 0.1
    assert not {"category_ids", "value_range"} & set(texts)


def test_value_range_of_the_config():
    cfg = tiny_cfg()
    cfg.INPUT.VALUE_RANGE = [0.0, 4095.0]
    assert json.loads(metadata(cfg, tiny_model(), (48, 64))["value_range"]) == [0, 4095]


def test_category_ids_of_the_config():
    cfg = tiny_cfg()
    cfg.MODEL.CATEGORY_IDS = [0, 7, "x"]
    assert json.loads(metadata(cfg, tiny_model(), (48, 64))["category_ids"]) == [0, 7, "x"]


@pytest.mark.parametrize("model", ["detector", "classifier"])
def test_models_trained_by_backprop_have_no_mode_and_noise(model):
    if model == "detector":
        file = "digits_backprop.yaml"
        texts = metadata(tiny_cfg(file), tiny_model(file=file), (64, 64))
    else:
        file = "digits_flow_vit+backprop"
        texts = metadata(classifiers.tiny_cfg(file), classifiers.tiny_model(file), (32, 32))
    assert not {"mode", "noise_scale", "noise_shape"} & set(texts)
    assert (texts["weights"], texts["noise_input"]) == ("last", "false")
    assert ("nms_threshold" in texts) == (model == "detector")
