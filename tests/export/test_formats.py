"""The outputs of exported files match the model's: ONNX Runtime and torch.export against eager."""

import json
import math

import pytest
import torch

import tests.flowcls.tiny as classifiers
from flowdet.export import FORMATS, Difference, export, graph_of, measure_difference
from flowdet.export import check as check_module
from flowdet.export.formats import (
    EXTRA_FILE,
    Format,
    open_onnx,
    open_torch,
    write_onnx,
    write_torch,
)
from tests.detection.tiny import tiny_model
from tests.export.test_graphs import THRESHOLD, TOLERANCE, images

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
    """For `file` see `tests.flowcls.tiny.tiny_cfg`."""
    overrides = ["INPUT.FIXED_SIZE", [32, 32], "MODEL.VIT.NUM_LAYERS", 1]
    # every step and every block makes the export longer
    overrides += ["MODEL.NOPROP.NUM_STEPS", 3, "MODEL.NOPROP.NUM_BLOCKS", 2]
    model = classifiers.tiny_model(file, *overrides, NUM_BLOCKS=2, **keys)
    return graph_of(model.eval(), (32, 32))


def check(graph, run, noise_input=False):
    """Compares a file with the model on a batch of 1 and a batch of 3."""
    difference = measure_difference(graph, run, images(size=graph.size), noise_input)
    assert difference.largest < TOLERANCE
    assert difference.images == 3 and difference.detections != 0


# one file for everything, because an export takes seconds. test_graphs.py compares the graphs of
# all modes, and tests/cli/test_export.py exports a detector without a noise input.
@pytest.mark.slow
def test_onnx_of_a_detector(onnxruntime, tmp_path):
    keys = {"BOX_SAMPLES": 2, "NOISE_SCALE": 3.0, "STABILITY_SAMPLES": 1}
    graph = detector_graph(INFERENCE_MODE="multi_step", **keys)
    write_onnx(graph, tmp_path / "a.onnx", METADATA, noise_input=True)
    run, pixels = open_onnx(tmp_path / "a.onnx"), images(size=SIZE)
    check(graph, run)
    check(graph, run, noise_input=True)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    # the noise input has a default, so it need not be given
    (x,) = session.get_inputs()
    assert (x.name, x.shape, x.type) == ("images", ["batch", 3, *SIZE], "tensor(uint8)")
    (noise_input,) = session.get_overridable_initializers()
    assert noise_input.shape[1:] == [6, 32]
    outputs = [(x.name, x.shape) for x in session.get_outputs()]
    assert outputs == [
        ("boxes", ["batch", 18, 4]),
        ("scores", ["batch", 18]),
        ("classes", ["batch", 18]),
    ]
    metadata = session.get_modelmeta()
    assert metadata.custom_metadata_map == METADATA
    assert "Output, best first: boxes" in metadata.description
    for noise in torch.randn(1, 6, 32), torch.randn(3, 6, 32):
        boxes, scores, _ = graph(pixels, noise)
        assert not torch.allclose(scores, graph(pixels)[1], atol=1e-3)
        file_boxes, file_scores, _ = run(pixels, noise)
        torch.testing.assert_close(file_scores, scores, atol=1e-4, rtol=0)
        # the boxes of unused rows are arbitrary
        used = scores > 0
        assert used.any()
        torch.testing.assert_close(file_boxes[used], boxes[used], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("digits_flow_vit", {}),
        ("cifar10_flow_cnn+sequential", {"IN_FEATURES": ["stage2", "stage3"]}),
    ],
)
def test_onnx_of_classifiers(file, keys, onnxruntime, tmp_path):
    graph = classifier_graph(file, **keys)
    write_onnx(graph, tmp_path / "a.onnx", {}, noise_input=False)
    check(graph, open_onnx(tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    ("make", "noise_input"),
    [
        (lambda: detector_graph(INFERENCE_MODE="single_step", BOX_SAMPLES=2), True),
        (lambda: detector_graph(file="digits_backprop.yaml"), False),
        (lambda: classifier_graph("imagenet_r_flow_vit_b16", NUM_STEPS=1), True),
        (lambda: classifier_graph("baselines/digits_noprop_dt_cnn"), False),
        (lambda: classifier_graph("baselines/digits_ff_cnn"), False),
        (lambda: classifier_graph("baselines/digits_sff_cnn"), False),
    ],
    ids=["detector", "baseline", "encoder", "noprop_dt", "ff", "sff"],
)
def test_torch_export(make, noise_input, tmp_path):
    graph, file = make(), tmp_path / "a.pt2"
    write_torch(graph, file, METADATA, noise_input)
    # the export disables it temporarily
    assert torch.backends.mha.get_fastpath_enabled()
    check(graph, open_torch(file), noise_input)
    extra_files = {EXTRA_FILE: ""}
    torch.export.load(file, extra_files=extra_files)
    assert json.loads(extra_files[EXTRA_FILE]) == METADATA


@pytest.mark.parametrize("changed", ["box", "score", "class", "number of detections", "nan"])
def test_difference_of_detections_is_measured(changed):
    graph = detector_graph()

    def run(pixels, noise):
        boxes, scores, classes = graph(pixels)
        if changed == "box":
            boxes[-1, 0, 2] += 0.02 * SIZE[1]
        elif changed == "score":
            scores[-1, 0] += 0.02
        elif changed == "class":
            classes[-1, 0] = (classes[-1, 0] + 1) % 3
        else:
            scores[-1, 0] = float("nan") if changed == "nan" else 0
        return boxes, scores, classes

    difference = measure_difference(graph, run, images(size=SIZE))
    if changed in ("box", "score"):
        assert difference.largest == pytest.approx(0.02, rel=1e-2)
    else:
        assert difference.largest > 0.1


def test_difference_of_probabilities_is_measured():
    graph, pixels = classifier_graph("cifar10_flow_cnn+backprop"), images(size=(32, 32))
    difference = measure_difference(graph, lambda x, noise: (graph(x)[0] + 0.01,), pixels)
    assert difference == Difference(pytest.approx(0.01, rel=1e-2), 3, None)

    def nan_outputs(pixels, noise):
        return (graph(pixels)[0].index_fill(0, torch.tensor([0]), float("nan")),)

    assert math.isnan(measure_difference(graph, nan_outputs, pixels).largest)


def test_only_matching_files_are_written(tmp_path, monkeypatch):
    graph, file = detector_graph(), tmp_path / "new" / "a.txt"

    def write(graph, path, metadata, noise_input):
        path.write_text(metadata["text"])

    right = Format(".txt", (), write, lambda path: graph)
    wrong = Format(".txt", (), write, lambda path: lambda x, noise: graph(255 - x))
    monkeypatch.setattr(check_module, "FORMATS", {"right": right, "wrong": wrong})
    rules = {"noise_input": False, "images": images(size=SIZE), "tolerance": 1e-4}
    difference = export(graph, file, "right", metadata={"text": "one"}, **rules)
    assert difference.largest < 1e-4 and file.read_text() == "one"
    with pytest.raises(ValueError, match="a.txt is not written.* more than the tolerance 0.0001"):
        export(graph, file, "wrong", metadata={"text": "two"}, **rules)
    assert file.read_text() == "one" and list(file.parent.iterdir()) == [file]


def test_missing_packages_are_named():
    file = FORMATS["onnx"]
    incomplete = Format(file.suffix, ("torch", "no_such_package"), file.write, file.open)
    with pytest.raises(ValueError, match="onnx files need no_such_package: pip install no_such"):
        incomplete.check_packages()
