"""The demo on images and videos of every kind that people have."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest
import torch
from detectron2.modeling import build_model

from flowdet.cli import demo
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from tests.cases.input_cases import INPUT_CASES
from tests.cli.conftest import ROOT
from tests.videos import read_video

CONFIG = str(ROOT / "configs" / "digits_flow.yaml")
SMALL = ["MODEL.FLOW_DET.HIDDEN_DIM", "32", "MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]"]
IMAGES = [name for name, case in INPUT_CASES.items() if case.kind == "images"]


@pytest.fixture(scope="module")
def model_words(tmp_path_factory):
    """The options of a small untrained detector that detects a three at every query."""
    torch.manual_seed(0)
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", *SMALL])
    model = build_model(resolve_config(cfg, training=False))
    with torch.no_grad():
        model.heads.classes.bias[3] += 3
        model.heads.classes.bias[-1] -= 10
    folder = tmp_path_factory.mktemp("weights")
    FlowDetCheckpointer(model, str(folder)).save("model")
    words = ["--config-file", CONFIG, "--weights", str(folder / "model.pth"), "--device", "cpu"]
    return words, ["--opts", *SMALL]


@pytest.fixture
def run_demo(model_words, capsys):
    """Runs the demo; returns the exit status and the output."""
    words, overrides = model_words

    def run(*more):
        try:
            status = demo.main([*words, *map(str, more), *overrides])
        except SystemExit as end:
            # a process prints the message and has the exit status 1
            status = 1
            print(end.code)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, run_demo, tmp_path, caplog):
    case, folder, json_file = INPUT_CASES[name], tmp_path / "in", tmp_path / "detections.json"
    folder.mkdir()
    case.write(folder)
    status, output = run_demo("--input", folder, "--json", json_file)
    assert status == case.status, output
    assert "Traceback" not in output
    assert re.search(case.message, output + caplog.text), output
    boxes = defaultdict(list)
    for row in json.loads(json_file.read_text()):
        boxes[row["image_id"]].append(row["bbox"])
    assert len(boxes) == case.done
    for group in case.equal:
        of_group = {key: value for key, value in boxes.items() if str(key).startswith(group)}
        first = next(iter(of_group.values()))
        for value in of_group.values():
            # a pixel is 1, and pixels of all files are equal
            assert value == [pytest.approx(box, abs=0.01) for box in first]


def test_a_video_without_frames_is_one_line(run_demo, tmp_path):
    INPUT_CASES["video_no_frames"].write(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        status, output = run_demo("--video", path, "--output", tmp_path / "out.mp4")
        assert status == 1
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and path.name in errors[0] and "Traceback" not in output


def test_half_a_video(run_demo, tmp_path, caplog):
    """The frames that are there are processed, with a warning."""
    INPUT_CASES["video_half"].write(tmp_path)
    out = tmp_path / "out.mp4"
    status, output = run_demo("--video", tmp_path / "half.avi", "--output", out)
    assert 0 < len(read_video(out)[0]) < 10
    assert "half.avi" in output + caplog.text and "Traceback" not in output


@pytest.mark.parametrize("name", ["video_one_frame", "video_odd_size"])
def test_videos(name, run_demo, tmp_path):
    case = INPUT_CASES[name]
    case.write(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        out = tmp_path / f"detections_of_{path.name}"
        status, output = run_demo("--video", path, "--output", out)
        assert status == case.status, output
        assert len(read_video(out)[0]) == case.done
