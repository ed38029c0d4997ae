"""Nodes of a config that have no effect on its model."""

import pytest
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from flowdet.detection.peers.fcos import FCOSDetector
from flowdet.engine import load_config
from flowdet.engine.model_nodes import unread_nodes

BASELINES = {"FORWARD_FORWARD", "SFF", "CFF", "SOFT_HEBB", "NOPROP", "LOCAL_LEARNING"}
DETECTORS = {"BOX_TRANSPORT", "FCOS"}


def unread(cfg):
    return {prefix.split(".")[1] for prefix in unread_nodes(cfg)}


@pytest.mark.parametrize(
    "config, read",
    [
        ("digits_flow", {"FLOW_DET"}),
        ("digits_backprop", {"FLOW_DET"}),
        ("peers/voc_fcos_r18_frozen", {"FLOW_DET", "FCOS"}),
        ("peers/voc_box_flow_r18_frozen", {"FLOW_DET", "BOX_TRANSPORT"}),
        ("peers/voc_faster_rcnn_r18_frozen", {"FLOW_DET"}),
        ("cls/digits_flow_vit", {"FLOW_CLS"}),
        ("cls/baselines/digits_symba_cnn", {"FLOW_CLS", "FORWARD_FORWARD", "LOCAL_LEARNING"}),
        ("cls/baselines/digits_cff_margin_vit", {"FLOW_CLS", "CFF", "LOCAL_LEARNING"}),
        ("cls/baselines/digits_noprop_fm_cnn", {"FLOW_CLS", "NOPROP"}),
    ],
)
def test_nodes_of_flowdets_models(config, read):
    assert unread(load_config(config)) == ({"FLOW_DET", "FLOW_CLS"} | BASELINES | DETECTORS) - read


def test_models_of_users():
    class Derived(FCOSDetector):
        pass

    class Other(nn.Module):
        pass

    cfg = load_config("peers/voc_fcos_r18_frozen")
    expected = unread(cfg)
    for model in (Derived, Other):
        META_ARCH_REGISTRY._do_register(model.__name__, model)
    try:
        cfg.MODEL.META_ARCHITECTURE = "Derived"
        assert unread(cfg) == expected
        cfg.MODEL.META_ARCHITECTURE = "Other"
        assert unread(cfg) == set()
    finally:
        for model in (Derived, Other):
            del META_ARCH_REGISTRY._obj_map[model.__name__]
