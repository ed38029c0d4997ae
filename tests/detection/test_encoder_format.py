"""The formats in which backbone and neck compute at inference."""

import pytest
import torch
from detectron2.modeling import build_model

from flowdet.engine.config import with_keys
from tests.detection.peers.tiny import PEERS, peer_cfg
from tests.detection.test_detector import assert_same_detections, train_step
from tests.detection.tiny import batch, tiny_cfg


def build(cfg, **keys):
    """A detector with keys of TEST, and the dtypes and memory formats of its feature maps."""
    torch.manual_seed(0)
    model = build_model(with_keys(cfg, {f"TEST.{name}": value for name, value in keys.items()}))
    seen = []

    def record(module, inputs, outputs):
        (x,) = outputs.values()
        seen.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last)))

    model.backbone.register_forward_hook(record)
    return model, seen


def test_channels_last_changes_no_result():
    plain, seen = build(tiny_cfg())
    expected = plain.eval()(batch())
    assert seen == [(torch.float32, False)]
    model, seen = build(tiny_cfg(), CHANNELS_LAST=True)
    assert_same_detections(model.eval()(batch()), expected)
    assert seen == [(torch.float32, True)]


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_moves_boxes_little(channels_last):
    plain, _ = build(tiny_cfg(STABILITY_SAMPLES=2))
    keys = {"BFLOAT16": True, "CHANNELS_LAST": channels_last}
    model, seen = build(tiny_cfg(STABILITY_SAMPLES=2), **keys)
    with torch.no_grad():
        tokens = model.eval().encode(batch())
        boxes = model.heads.boxes(model.refine(tokens).z_1)
        expected = plain.eval().heads.boxes(plain.refine(plain.encode(batch())).z_1)
    assert seen == [(torch.bfloat16, channels_last)] and tokens.tokens.dtype == torch.float32
    assert 0 < (boxes - expected).abs().max() < 0.01


def test_training_stays_in_float32():
    model, seen = build(tiny_cfg(), BFLOAT16=True, CHANNELS_LAST=True)
    losses, _ = train_step(model, batch())
    expected, _ = train_step(build(tiny_cfg())[0], batch())
    assert seen == [(torch.float32, False)]
    torch.testing.assert_close(losses, expected)


def test_cached_features_stay_in_float32():
    cfg = tiny_cfg("voc_flow_r18_frozen.yaml", FEATURE_CACHE_GIB=0.1)
    model, seen = build(cfg, BFLOAT16=True, CHANNELS_LAST=True)
    model.eval()(batch())
    assert seen == [(torch.float32, False)]


@pytest.mark.parametrize("name", PEERS)
def test_detectors_for_comparison(name):
    model, seen = build(peer_cfg(name), BFLOAT16=True, CHANNELS_LAST=True)
    model.eval()(batch())
    assert seen == [(torch.bfloat16, True)]
