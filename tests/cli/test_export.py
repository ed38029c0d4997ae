"""tools/export.py, from the command line to detections of the exported file."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

import flowdet
from flowdet.cli import export
from flowdet.config.errors import UsageError
from flowdet.engine import load_config
from flowdet.engine.checkpoint_notes import read_notes
from flowdet.export import metadata_of
from flowdet.inference.predictor import Predictor
from tests.cli.commands import FOUR_IMAGES, NO_REPORT, SMALL
from tests.cli.conftest import ROOT

BACKPROP = str(ROOT / "configs" / "digits_backprop.yaml")
CLASSIFIER = str(ROOT / "configs" / "cls" / "digits_flow_vit.yaml")


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A training of two iterations that keeps an average of its weights."""
    folder = tmp_path_factory.mktemp("run")
    config = ("--config-file", "digits_flow", *SMALL, *FOUR_IMAGES, *NO_REPORT)
    keys = ("SOLVER.MAX_ITER", 2, "SOLVER.EMA_DECAY", 0.5, "MODEL.FLOW_DET.NUM_BLOCKS", 2)
    status, output = run("tools/train_net.py", *config, *keys, "OUTPUT_DIR", folder)
    assert status == 0, output
    return folder


def arguments(folder, *words):
    config = ("--config-file", folder / "config.yaml", "--weights", folder / "model_final.pth")
    return export.parse_args(list(map(str, [*config, *words])))


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((120, 90)).save(path)
    return path


@pytest.mark.slow
def test_the_example_of_the_documentation_gives_the_detections_of_the_model(
    run, trained, photo, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "detector.onnx"
    status, output = run(
        *("tools/export.py", "--config-file", trained / "config.yaml", "--output", file),
        *("--weights", trained / "model_final.pth", "--check", photo, "--steps", 1),
    )
    assert status == 0, output
    *_, first, second = output.splitlines()
    assert first.startswith(f"{file}: ") and first.endswith("images of 96 x 96, multi_step-1")
    assert re.match(r"largest difference from the model: \S+ in 1 images with \d+ det", second)
    assert [x.name for x in tmp_path.iterdir() if "partial" in x.name] == []

    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example.replace("score > 0.5", "score > 0"), names)
    printed = capsys.readouterr().out.splitlines()
    cfg = load_config(str(trained / "config.yaml"), ["MODEL.FLOW_DET.NUM_STEPS", 1])
    (result,) = Predictor(cfg, str(trained / "model_final.pth"))([photo])
    detections = result["instances"]
    assert len(detections) == len(printed) == (names["scores"] > 0).sum() > 0
    np.testing.assert_allclose(names["scores"][0, : len(detections)], detections.scores, atol=1e-4)
    boxes = names["boxes"][0, : len(detections)] * names["to_photo"]
    np.testing.assert_allclose(boxes, detections.pred_boxes.tensor, atol=0.01)

    metadata = names["metadata"]
    assert metadata["weights"] == "average" and metadata["mode"] == "multi_step-1"
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert json.loads(metadata["noise_shape"]) == [20, 32]
    assert (metadata["nms"], metadata["noise_input"]) == ("true", "false")
    assert metadata["score_threshold"] == "0.05"


def test_torch_export_of_the_last_weights(trained, tmp_path, capsys):
    file = tmp_path / "new" / "detector.pt2"
    words = ("--output", file, "--mode", "single_step", "--block", 1, "--no-ema")
    args = arguments(trained, *words, "--no-nms", "--noise-input", "--size", 64, 80)
    export.export_model(args)
    assert file.is_file() and args.format == "torch"
    output = capsys.readouterr().out
    assert "images of 64 x 80, single_step-1" in output and "4 random images with" in output
    predictor = export.load(args)
    metadata = metadata_of(predictor, export.build(args, predictor), True)
    assert metadata["weights"] == "last"
    assert (metadata["nms"], metadata["noise_input"]) == ("false", "true")


def test_an_export_without_detections_is_reported(trained, tmp_path, capsys):
    none = ("--opts", "MODEL.FLOW_DET.SCORE_THRESHOLD", 1.0)
    words = ("--output", tmp_path / "a.pt2", "--mode", "single_step", *none)
    export.export_model(arguments(trained, *words))
    assert "nothing was detected: compare on images with objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--opts", "INPUT.FIXED_SIZE", "[0, 0]"], "give --size H W"),
        (["--opts", "MODEL.FLOW_DET.EARLY_EXIT", 0.1], "EARLY_EXIT is 0.1"),
        (["--ema", "--opts", "SOLVER.EMA_DECAY", 0], "no averaged weights"),
        (
            ["--mode", "ensemble", "--steps", 3],
            "steps is for mode multi_step or multi_step_ensemble",
        ),
        (["--check", "nowhere.jpg"], "nowhere.jpg"),
    ],
)
def test_impossible_exports_write_nothing(trained, tmp_path, words, message):
    args = arguments(trained, "--output", tmp_path / "a.pt2", *words)
    with pytest.raises((ValueError, OSError), match=message):
        export.export_model(args)
    assert not (tmp_path / "a.pt2").exists()


def test_flags_of_other_models_are_refused(trained):
    args = arguments(trained, "--output", "a.onnx", "--noise-input")
    predictor = export.load(args)
    cfg = load_config(BACKPROP, ["MODEL.FLOW_DET.NUM_CLASSES", 10, "MODEL.DEVICE", "cpu"])
    predictor.model = build_model(cfg).eval()
    with pytest.raises(UsageError, match="has no initial noise: leave out --noise-input"):
        export.build(args, predictor)
    words = ["--config-file", CLASSIFIER, "--output", "a.onnx", "--no-nms"]
    with pytest.raises(UsageError, match="--no-nms is for detectors"):
        export.load(export.parse_args(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "model.bin"], "must end in .onnx"),
        (["--output", "model.onnx", "--format", "torch"], "must end in"),
        (["--output", "model.onnx", "--size", "64", "0"], "at least 1"),
        (["--output", "model.onnx", "--tolerance", "nan"], "must be a positive number"),
    ],
)
def test_wrong_flags_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        export.parse_args(["--config-file", BACKPROP, *words])
    assert message in capsys.readouterr().err


def test_weights_as_safetensors(trained, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    export.export_model(arguments(trained, "--output", path))
    assert f"{path}: " in capsys.readouterr().out
    loaded = flowdet.load(trained, weights=path)
    expected = flowdet.load(trained).predictor.model.state_dict()
    state = loaded.predictor.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert read_notes(path).class_names == loaded.class_names
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is the file of the weights"):
        export.export_model(arguments(trained, "--weights", path, "--output", path))
    assert path.read_bytes() == before


def test_the_benchmark_of_exported_files_names_a_damaged_one(trained, run, tmp_path):
    path = tmp_path / "a.pt2"
    path.write_bytes(b"damaged")
    config = ("--config-file", trained / "config.yaml", "--weights", trained / "model_final.pth")
    status, text = run("benchmarks/export.py", *config, "--files", path)
    assert status == 1 and f"error: --files: {path} is damaged, or exported from" in text
