"""Which functions a config is trained with."""

import pytest

from flowdet.engine.task_builders import CLASSIFICATION, DETECTION, task_of
from tests.detection.tiny import tiny_cfg
from tests.flowcls.tiny import tiny_cfg as tiny_classifier_cfg


def test_task_follows_the_meta_architecture():
    assert task_of(tiny_classifier_cfg()) is CLASSIFICATION
    assert task_of(tiny_classifier_cfg("digits_flow_vit+backprop")) is CLASSIFICATION
    assert task_of(tiny_cfg()) is task_of(tiny_cfg("digits_backprop.yaml")) is DETECTION
    cfg = tiny_cfg()
    # of detectron2
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert task_of(cfg) is DETECTION
    cfg.MODEL.META_ARCHITECTURE = "Nothing"
    with pytest.raises(KeyError, match="Nothing"):
        task_of(cfg)


def test_every_task_has_its_own_node():
    cfg = tiny_cfg()
    assert DETECTION.keys(cfg) is cfg.MODEL.FLOW_DET
    assert CLASSIFICATION.keys(cfg) is cfg.MODEL.FLOW_CLS
