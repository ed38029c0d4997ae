"""Graphs say what their models say, before they are exported."""

import pytest
import torch
from torch import nn

import tests.flowcls.tiny as classifiers
from flowdet.detection.feature_cache import FeatureCache
from flowdet.export import difference, graph_of
from flowdet.flow import INFERENCE_MODES
from tests.detection.tiny import tiny_model

# more than an untrained model's spread, so that some rows stay empty
THRESHOLD = 0.27


def detector(**keys):
    return tiny_model(**{"NUM_BLOCKS": 2, "SCORE_THRESHOLD": THRESHOLD, **keys}).eval()


def images(count=3, size=(64, 64)):
    random = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=random)


def compare(model, pixels=None, **settings):
    """The largest difference between a model and its graph, and the graph."""
    pixels = images() if pixels is None else pixels
    graph = graph_of(model, tuple(pixels.shape[-2:]), **settings)
    found = difference(graph, graph, pixels)
    assert found.images == len(pixels)
    assert found.detections is None or found.detections > 0
    return found.largest, graph


@pytest.mark.parametrize("mode", INFERENCE_MODES)
def test_detectors_in_every_mode(mode):
    model = detector(INFERENCE_MODE=mode, NUM_STEPS=3, SINGLE_STEP_BLOCK=1, BOX_SAMPLES=2)
    assert compare(model)[0] < 1e-5


@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize("most", [3, 100, -1])
def test_limits_of_detections(suppress, most):
    model = detector(NMS_THRESHOLD=0.2)
    model.postprocess.max_detections = most
    largest, graph = compare(model, suppress=suppress)
    assert largest < 1e-5
    boxes, scores, classes = graph(images())
    limit = most if suppress and most == 3 else 6 * 3
    assert boxes.shape == (3, limit, 4) and scores.shape == classes.shape == (3, limit)


def test_rows_without_a_detection_are_last():
    model = detector()
    boxes, scores, classes = graph_of(model, (64, 64))(images())
    for x, image in enumerate(images()):
        (found,) = model.inference([{"image": image}])
        count = len(found["instances"])
        assert 0 < count < scores.shape[1]
        torch.testing.assert_close(scores[x, :count], found["instances"].scores)
        assert (scores[x, count:] == 0).all() and (classes[x, count:] == -1).all()
        assert (classes[x, :count] >= 0).all()


def test_a_size_that_the_backbone_pads(monkeypatch):
    model = detector(BOX_SAMPLES=2)
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 32)
    largest, graph = compare(model, images(size=(48, 70)))
    assert largest < 1e-5 and graph.padded_size == (64, 96)


def test_baseline_has_no_noise():
    largest, graph = compare(detector(file="digits_backprop.yaml"))
    assert largest < 1e-5 and graph.noise is None


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_scores_by_stability(file):
    assert compare(detector(file=file, STABILITY_SAMPLES=2))[0] < 1e-5


def test_noise_of_ones_own():
    model = detector(NOISE_SCALE=3.0)
    graph, pixels = graph_of(model, (64, 64)), images()
    noise = torch.randn(3, *graph.noise.shape[1:])
    assert not torch.allclose(graph(pixels)[1], graph(pixels, noise)[1], atol=1e-3)
    torch.testing.assert_close(graph(pixels)[1], graph(pixels, graph.noise)[1])
    for x in range(3):
        alone = graph(pixels[x : x + 1], noise[x : x + 1])
        torch.testing.assert_close(alone[0][0], graph(pixels, noise)[0][x], atol=1e-3, rtol=0)


def test_feature_cache_is_passed_by():
    model = detector()
    largest, graph = compare(model)
    model.feature_cache = FeatureCache(1.0)
    graph(images())
    assert not model.feature_cache.store


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("digits_flow_vit", {}),
        ("digits_flow_vit", {"INFERENCE_MODE": "single_step"}),
        ("cifar10_flow_cnn_sequential", {"NUM_STEPS": 5}),
        ("cifar10_backprop_cnn", {}),
        ("imagenet_r_flow_vit_b16", {}),
    ],
)
def test_classifiers(file, keys):
    model = classifiers.tiny_model(file, "INPUT.FIXED_SIZE", [32, 32], **keys).eval()
    assert compare(model, images(size=(32, 32)))[0] < 1e-6


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match="call model.eval"):
        graph_of(detector().train(), (64, 64))
    with pytest.raises(ValueError, match="EARLY_EXIT is 0.1.*EARLY_EXIT 0"):
        graph_of(detector(EARLY_EXIT=0.1), (64, 64))
    with pytest.raises(ValueError, match="a Linear is no detector or classifier"):
        graph_of(nn.Linear(1, 1), (64, 64))
