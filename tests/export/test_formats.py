"""Exported files say what the model says: ONNX Runtime and torch.export against eager."""

import json
import math

import pytest
import torch

import tests.flowcls.tiny as classifiers
from flowdet.export import FORMATS, Difference, difference, export, graph_of
from flowdet.export import check as check_module
from flowdet.export.formats import (
    EXTRA_FILE,
    Format,
    open_onnx,
    open_torch,
    write_onnx,
    write_torch,
)
from flowdet.flow import INFERENCE_MODES
from tests.detection.tiny import tiny_model
from tests.export.test_graphs import THRESHOLD, images

SIZE = (48, 64)
METADATA = {"class_names": '["cat", "dog", "owl"]', "input_format": "RGB"}


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def detector_graph(**keys):
    keys = {"NUM_BLOCKS": 2, "NUM_STEPS": 2, "SCORE_THRESHOLD": THRESHOLD, **keys}
    return graph_of(tiny_model(**keys).eval(), SIZE)


def classifier_graph(file, **keys):
    model = classifiers.tiny_model(file, "INPUT.FIXED_SIZE", [32, 32], NUM_BLOCKS=2, **keys)
    return graph_of(model.eval(), (32, 32))


def check(graph, run, give_noise=False):
    """A batch of 1 and one of 3."""
    found = difference(graph, run, images(size=graph.size), give_noise)
    assert found.largest < 1e-4
    assert found.images == 3 and found.detections != 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", INFERENCE_MODES)
def test_onnx_of_detectors(mode, onnxruntime, tmp_path):
    graph = detector_graph(INFERENCE_MODE=mode, SINGLE_STEP_BLOCK=1)
    write_onnx(graph, tmp_path / "a.onnx", METADATA, noise_input=False)
    check(graph, open_onnx(tmp_path / "a.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape, taken.type) == ("images", ["batch", 3, *SIZE], "tensor(uint8)")
    given = [(x.name, x.shape) for x in session.get_outputs()]
    assert given == [
        ("boxes", ["batch", 18, 4]),
        ("scores", ["batch", 18]),
        ("classes", ["batch", 18]),
    ]
    about = session.get_modelmeta()
    assert about.custom_metadata_map == METADATA
    assert "Output, best first: boxes" in about.description


@pytest.mark.slow
def test_onnx_with_box_samples_stability_and_noise_of_ones_own(onnxruntime, tmp_path):
    graph = detector_graph(BOX_SAMPLES=2, NOISE_SCALE=3.0, NUM_STEPS=5, STABILITY_SAMPLES=2)
    write_onnx(graph, tmp_path / "a.onnx", {}, noise_input=True)
    run, pixels = open_onnx(tmp_path / "a.onnx"), images(size=SIZE)
    check(graph, run)
    check(graph, run, give_noise=True)
    for noise in torch.randn(1, 6, 32), torch.randn(3, 6, 32):
        expected = graph(pixels, noise)
        assert not torch.allclose(expected[1], graph(pixels)[1], atol=1e-3)
        torch.testing.assert_close(run(pixels, noise)[1], expected[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("digits_flow_vit", {}),
        ("cifar10_flow_cnn_sequential", {"IN_FEATURES": ["stage2", "stage3"]}),
        ("imagenet_r_backprop_vit_b16", {}),
    ],
)
def test_onnx_of_classifiers(file, keys, onnxruntime, tmp_path):
    graph = classifier_graph(file, **keys)
    write_onnx(graph, tmp_path / "a.onnx", {}, noise_input=False)
    check(graph, open_onnx(tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    ("make", "give_noise"),
    [
        (lambda: detector_graph(INFERENCE_MODE="single_step", BOX_SAMPLES=2), True),
        (lambda: detector_graph(file="digits_backprop.yaml"), False),
        (lambda: classifier_graph("imagenet_r_flow_vit_b16", NUM_STEPS=1), True),
        (lambda: classifier_graph("cifar10_flow_cnn"), False),
    ],
    ids=["detector", "baseline", "encoder", "cnn"],
)
def test_torch_export(make, give_noise, tmp_path):
    graph, file = make(), tmp_path / "a.pt2"
    write_torch(graph, file, METADATA, give_noise)
    # it is switched off in between
    assert torch.backends.mha.get_fastpath_enabled()
    check(graph, open_torch(file), give_noise)
    about = {EXTRA_FILE: ""}
    torch.export.load(file, extra_files=about)
    assert json.loads(about[EXTRA_FILE]) == METADATA


@pytest.mark.parametrize("spoil", ["box", "score", "class", "one less", "nan"])
def test_a_difference_is_found(spoil):
    graph = detector_graph()

    def run(pixels, noise):
        boxes, scores, classes = graph(pixels)
        if spoil == "box":
            boxes[-1, 0, 2] += 0.02 * SIZE[1]
        elif spoil == "score":
            scores[-1, 0] += 0.02
        elif spoil == "class":
            classes[-1, 0] = (classes[-1, 0] + 1) % 3
        else:
            scores[-1, 0] = 0 if spoil == "one less" else float("nan")
        return boxes, scores, classes

    found = difference(graph, run, images(size=SIZE))
    if spoil in ("box", "score"):
        assert found.largest == pytest.approx(0.02, rel=1e-3)
    else:
        assert found.largest > 0.1


def test_a_difference_of_probabilities_is_found():
    graph = classifier_graph("cifar10_backprop_cnn")
    found = difference(graph, lambda x, noise: (graph(x)[0] + 0.01,), images(size=(32, 32)))
    assert found == Difference(pytest.approx(0.01, rel=1e-3), 3, None)

    def broken(pixels, noise):
        return (graph(pixels)[0].index_fill(0, torch.tensor([0]), float("nan")),)

    assert math.isnan(difference(graph, broken, images(size=(32, 32))).largest)


def test_only_what_is_right_is_written(tmp_path, monkeypatch):
    graph, file = detector_graph(), tmp_path / "new" / "a.txt"

    def write(graph, path, metadata, noise_input):
        path.write_text(metadata["text"])

    right = Format(".txt", (), write, lambda path: graph)
    wrong = Format(".txt", (), write, lambda path: lambda x, noise: graph(255 - x))
    monkeypatch.setattr(check_module, "FORMATS", {"right": right, "wrong": wrong})
    rules = {"noise_input": False, "images": images(size=SIZE), "tolerance": 1e-4}
    found = export(graph, file, "right", metadata={"text": "one"}, **rules)
    assert found.largest < 1e-4 and file.read_text() == "one"
    with pytest.raises(ValueError, match="a.txt is not written.* more than 0.0001"):
        export(graph, file, "wrong", metadata={"text": "two"}, **rules)
    assert file.read_text() == "one" and list(file.parent.iterdir()) == [file]


def test_missing_packages_are_named():
    file = FORMATS["onnx"]
    lacking = Format(file.suffix, ("torch", "onnx_of_the_future"), file.write, file.open)
    with pytest.raises(ValueError, match="onnx files need onnx_of_the_future: pip install onnx_of"):
        lacking.check_packages()
