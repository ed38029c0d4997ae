"""The outputs of graphs match those of their models, before they are exported."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

import tests.flowcls.tiny as classifiers
from flowdet.detection.feature_cache import FeatureCache
from flowdet.engine.config import with_keys
from flowdet.export import graph_of, measure_difference
from flowdet.flow import INFERENCE_MODES
from tests.detection.tiny import tiny_cfg, tiny_model

# above some of the scores of an untrained model, so that some rows stay empty
THRESHOLD = 0.27
# of `Difference.largest`: 1e-4 of a score, and 0.01 pixel of a box in images of up to 100 pixels
TOLERANCE = 1e-4


def detector(**keys):
    return tiny_model(**{"NUM_BLOCKS": 2, "SCORE_THRESHOLD": THRESHOLD, **keys}).eval()


def images(count=3, size=(64, 64)):
    random = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=random)


def compare(model, pixels=None, **settings):
    """Compares a model with its graph; returns the graph."""
    pixels = images() if pixels is None else pixels
    graph = graph_of(model, tuple(pixels.shape[-2:]), **settings)
    difference = measure_difference(graph, graph, pixels)
    assert difference.largest < TOLERANCE
    assert difference.images == len(pixels)
    assert difference.detections is None or difference.detections > 0
    return graph


@pytest.mark.parametrize("mode", INFERENCE_MODES)
def test_detectors_in_every_mode(mode):
    compare(detector(INFERENCE_MODE=mode, NUM_STEPS=3, SINGLE_STEP_BLOCK=1, BOX_SAMPLES=2))


@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize("maximum", [3, 100, -1])
def test_maximum_number_of_detections(suppress, maximum):
    model = detector(NMS_THRESHOLD=0.2)
    model.postprocess.max_detections = maximum
    graph = compare(model, suppress=suppress)
    boxes, scores, classes = graph(images())
    limit = maximum if suppress and maximum == 3 else 6 * 3
    assert boxes.shape == (3, limit, 4) and scores.shape == classes.shape == (3, limit)


def test_rows_without_a_detection_are_last():
    model = detector()
    boxes, scores, classes = graph_of(model, (64, 64))(images())
    for x, image in enumerate(images()):
        (result,) = model.inference([{"image": image}])
        count = len(result["instances"])
        assert 0 < count < scores.shape[1]
        expected = result["instances"].scores
        torch.testing.assert_close(scores[x, :count], expected, atol=1e-4, rtol=0)
        assert (scores[x, count:] == 0).all() and (classes[x, count:] == -1).all()
        assert (classes[x, :count] >= 0).all()


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_formats_of_inference_in_pytorch_do_not_count(file, monkeypatch):
    monkeypatch.setattr("flowdet.detection.detector.run_compiled", lambda *_: 1 / 0)
    keys = {"TEST.BFLOAT16": True, "TEST.CHANNELS_LAST": True, "TEST.COMPILE": True}
    model = build_model(with_keys(tiny_cfg(file, SCORE_THRESHOLD=THRESHOLD), keys)).eval()
    compare(model)
    # the model keeps its own
    assert model.encoder_format.bfloat16 and getattr(model, "compile_steps", True)


def test_image_size_that_needs_padding(monkeypatch):
    model = detector(BOX_SAMPLES=2)
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 32)
    assert compare(model, images(size=(48, 70))).padded_size == (64, 96)


def test_baseline_has_no_noise():
    assert compare(detector(file="digits_backprop.yaml")).noise is None


@pytest.mark.parametrize("file", ["digits_flow.yaml", "digits_backprop.yaml"])
def test_box_stability_in_the_score(file):
    compare(detector(file=file, STABILITY_SAMPLES=2))


def test_noise_input():
    model = detector(NOISE_SCALE=3.0)
    graph, pixels = graph_of(model, (64, 64)), images()
    noise = torch.randn(3, *graph.noise.shape[1:])
    boxes, scores, _ = graph(pixels, noise)
    default_scores = graph(pixels)[1]
    assert not torch.allclose(default_scores, scores, atol=1e-3)
    torch.testing.assert_close(graph(pixels, graph.noise)[1], default_scores, atol=1e-4, rtol=0)
    for x in range(3):
        single = graph(pixels[x : x + 1], noise[x : x + 1])
        torch.testing.assert_close(single[0][0], boxes[x], atol=0.01, rtol=0)
        torch.testing.assert_close(single[1][0], scores[x], atol=1e-4, rtol=0)


def test_the_network_of_proposals_is_left_out_and_the_model_keeps_it():
    model = detector(PROPOSAL_QUERIES=4)
    graph = graph_of(model, (64, 64))
    assert not any("proposal" in name for name in graph.state_dict())
    assert any("proposal_network" in name for name in model.state_dict())
    assert graph_of(model, (64, 64)).model.neck is model.neck
    compare(model)


def test_feature_cache_is_not_used():
    model = detector()
    graph = compare(model)
    model.feature_cache = FeatureCache(1.0)
    graph(images())
    assert not model.feature_cache.store


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("digits_flow_vit", {}),
        ("digits_flow_vit", {"INFERENCE_MODE": "single_step"}),
        ("cifar10_flow_cnn+sequential", {"NUM_STEPS": 5}),
        ("cifar10_flow_cnn+backprop", {}),
        ("imagenet_r_flow_vit_b16", {}),
    ],
)
def test_classifiers(file, keys):
    model = classifiers.tiny_model(file, "INPUT.FIXED_SIZE", [32, 32], **keys).eval()
    compare(model, images(size=(32, 32)))


def test_models_that_cannot_be_exported():
    with pytest.raises(ValueError, match="call model.eval"):
        graph_of(detector().train(), (64, 64))
    with pytest.raises(ValueError, match="EARLY_EXIT is 0.1.*EARLY_EXIT 0"):
        graph_of(detector(EARLY_EXIT=0.1), (64, 64))
    with pytest.raises(
        ValueError, match="a Linear cannot be exported: only classifiers and detectors with queries"
    ):
        graph_of(nn.Linear(1, 1), (64, 64))
