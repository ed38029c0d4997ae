"""tools/demo.py from the command line to files."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.inference import video_writer
from flowdet.inference.pipeline import TRAJECTORY_FRAMES
from flowdet.inference.video import VideoFile
from flowdet.inference.video_writer import VideoWriter
from tests.videos import write_gray_video, read_video

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits_flow.yaml")
CLASSIFIER = str(ROOT / "configs" / "cls" / "digits_flow_vit.yaml")
BACKPROP = str(ROOT / "configs" / "digits_backprop.yaml")
BACKPROP_CLASSIFIER = str(ROOT / "configs" / "cls" / "digits_backprop_vit.yaml")
TINY_CLASSIFIER = [
    *("MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
    *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
    *("MODEL.FLOW_CLS.NUM_BLOCKS", "2"),
]
TOOL = ROOT / "tools" / "demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_untrained(folder, config, overrides=()):
    torch.manual_seed(0)
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", *overrides])
    model = build_model(resolve_config(cfg, training=False))
    FlowDetCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"), CONFIG)


@pytest.fixture(scope="module")
def classifier_weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"), CLASSIFIER, TINY_CLASSIFIER)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(96, 96), (40, 130)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i}.png")
    return folder


def run(*words):
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_sheet_trajectory_and_json(images, weights, tmp_path):
    sheet, found = tmp_path / "out" / "sheet.png", tmp_path / "out" / "found.json"
    done = run(
        *("--config-file", CONFIG, "--weights", weights, "--input", f"{images}/*"),
        *("--output", sheet, "--json", found, "--trajectory", "--steps", 2),
        *("--device", "cpu", "--batch-size", 1),
    )
    assert done.returncode == 0, done.stderr
    assert str(sheet) in done.stdout and "2 images" in done.stdout
    assert sorted(x.name for x in sheet.parent.iterdir()) == [
        "found.json",
        "sheet.png",
        "sheet_trajectory.png",
    ]
    assert Image.open(sheet).width > 2 * 320
    rows = json.loads(found.read_text())
    assert {row["image_id"] for row in rows} == {"image0", "image1"}


def test_errors_are_one_line(images, weights):
    done = run("--config-file", CONFIG, "--input", images / "gone.png", "--output", "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "gone.png" in done.stderr
    assert done.stderr.count("\n") == 1


def test_folder_of_pictures(demo, images, weights, tmp_path, capsys):
    words = ["--config-file", CONFIG, "--weights", weights, "--input", str(images)]
    demo.main(demo.parse_args([*words, "--output", f"{tmp_path}/new/", "--device", "cpu"]))
    assert sorted(x.name for x in (tmp_path / "new").iterdir()) == ["image0.png", "image1.png"]
    assert "2 images with 0 detections of at least 50%" in capsys.readouterr().out


def test_films_and_disagreement(demo, images, weights, tmp_path):
    words = ["--config-file", CONFIG, "--weights", weights, "--input", str(images / "image0.png")]
    out = tmp_path / "out"
    words += ["--output", f"{out}/", "--json", f"{out}/found.json", "--score-threshold", "0.1"]
    demo.main(demo.parse_args([*words, "--animate", "gif", "--disagreement", "--device", "cpu"]))
    assert sorted(x.name for x in out.iterdir()) == [
        "found.json",
        "image0.png",
        "image0_trajectory.gif",
    ]
    assert Image.open(out / "image0_trajectory.gif").n_frames == TRAJECTORY_FRAMES + 1
    assert all(row["box_spread"] > 0 for row in json.loads((out / "found.json").read_text()))


def video_words(weights, path, *words):
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu", *map(str, words)]
    return [*words, "--video", str(path), "--score-threshold", "0.1", "--batch-size", "2"]


def test_video_to_video_and_json(weights, tmp_path):
    clip = write_gray_video(tmp_path / "clip.avi", count=5, fps=12.5)
    out = tmp_path / "out"
    done = run(*video_words(weights, clip, "--output", f"{out}/", "--json", out / "found.json"))
    assert done.returncode == 0, done.stderr
    assert f"{out / 'clip.avi'}: 5 frames with" in done.stdout
    # of the progress bar
    assert "5/5" in done.stderr and "frame/s" in done.stderr
    frames, fps = read_video(out / "clip.avi")
    assert len(frames) == 5 and fps == 12.5
    assert frames[0].shape == (240, 320, 3)
    rows = json.loads((out / "found.json").read_text())
    assert {row["image_id"] for row in rows} == set(range(5))
    assert {row["file_name"] for row in rows} == {str(clip)}
    # in pixels of the clip
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows) <= 64
    assert sorted(x.name for x in out.iterdir()) == ["clip.avi", "found.json"]


def test_a_frame_is_found_as_the_same_image(demo, weights, tmp_path):
    clip = write_gray_video(tmp_path / "clip.avi", count=3)
    demo.main(demo.parse_args(video_words(weights, clip, "--json", tmp_path / "video.json")))
    pixels = list(VideoFile(clip))[2]["image"]
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu"]
    words += ["--input", str(tmp_path / "frame.png"), "--json", str(tmp_path / "image.json")]
    demo.main(demo.parse_args(words))
    video, image = (json.loads((tmp_path / f"{x}.json").read_text()) for x in ("video", "image"))
    last = [row for row in video if row["image_id"] == 2]
    assert [row["category_id"] for row in last] == [row["category_id"] for row in image]
    np.testing.assert_allclose(
        [row["bbox"] for row in last], [row["bbox"] for row in image], atol=0.02
    )


def test_ctrl_c_keeps_what_is_done(demo, weights, tmp_path, monkeypatch, capsys):
    clip = write_gray_video(tmp_path / "clip.avi", count=9)
    add = VideoWriter.add

    def third_is_interrupted(video_writer, picture, number=None):
        if video_writer.count == 3:
            raise KeyboardInterrupt
        add(video_writer, picture, number)

    monkeypatch.setattr(VideoWriter, "add", third_is_interrupted)
    out, found = tmp_path / "out.mp4", tmp_path / "found.json"
    words = video_words(weights, clip, "--output", out, "--json", found)
    assert demo.main(demo.parse_args(words)) == 130
    assert len(read_video(out)[0]) == 3
    assert {row["image_id"] for row in json.loads(found.read_text())} == {0, 1, 2}
    said = capsys.readouterr().out
    assert said.count("stopped by Ctrl-C") == 2 and "in 3 frames" in said
    assert sorted(x.name for x in tmp_path.iterdir()) == ["clip.avi", "found.json", "out.mp4"]


def test_a_camera_in_a_window_until_it_is_closed(demo, weights, tmp_path, monkeypatch, capsys):
    class Camera(VideoFile):
        def __init__(self, index):
            super().__init__(write_gray_video(tmp_path / "clip.avi", count=9))
            self.name, self.count = f"camera {index}", None

    class Window:
        shown, closed = 0, False

        def __init__(self, title):
            assert title == "camera 2"

        def show(self, picture):
            assert picture.size == (320, 240)
            Window.shown += 1
            return Window.shown < 4

        def close(self):
            Window.closed = True

    monkeypatch.setattr(demo, "Camera", Camera)
    monkeypatch.setattr(demo, "Window", Window)
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu"]
    words += ["--webcam", "2", "--show", "--output", str(tmp_path / "out.mp4")]
    assert demo.main(demo.parse_args(words)) == 0
    assert Window.shown == 4 and Window.closed
    assert len(read_video(tmp_path / "out.mp4")[0]) == 4
    assert "4 frames with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("video", "output", "said"),
    [
        ("gone.mp4", "out.mp4", "no video file"),
        ("notes.mp4", "out.mp4", "finds no video in it"),
        ("clip.avi", "out.gif", "does not have the suffix of a video"),
        ("clip.avi", "clip.avi", "is the input video itself"),
    ],
)
def test_videos_that_cannot_be(demo, tmp_path, video, output, said):
    write_gray_video(tmp_path / "clip.avi")
    (tmp_path / "notes.mp4").write_text("no frames at all")
    before = (tmp_path / "clip.avi").read_bytes()
    words = ["--config-file", CONFIG, "--video", str(tmp_path / video)]
    # before any weights are looked for
    with pytest.raises((OSError, ValueError), match=said):
        demo.main(demo.parse_args([*words, "--output", str(tmp_path / output)]))
    assert (tmp_path / "clip.avi").read_bytes() == before


def test_no_display_is_one_line(demo, weights, tmp_path, monkeypatch):
    clip = write_gray_video(tmp_path / "clip.avi")
    monkeypatch.setattr(video_writer, "has_windows", lambda: False)
    with pytest.raises(ValueError, match="has no windows"):
        demo.main(demo.parse_args(video_words(weights, clip, "--show")))


def arguments(demo, *words):
    return demo.parse_args(["--config-file", CONFIG, "--input", "x", "--output", "y", *words])


def test_flags_override_the_config(demo):
    cfg = demo.configure(
        arguments(
            demo,
            *("--mode", "single_step", "--block", "2", "--batch-size", "3"),
            *("--opts", "MODEL.FLOW_DET.NMS_THRESHOLD", "0.7", "TEST.BATCH_SIZE", "9"),
        )
    )
    node = cfg.MODEL.FLOW_DET
    assert (node.INFERENCE_MODE, node.SINGLE_STEP_BLOCK) == ("single_step", 2)
    assert (node.NMS_THRESHOLD, cfg.TEST.BATCH_SIZE) == (0.7, 3)
    assert node.SCORE_THRESHOLD == 0.05


def test_a_low_threshold_lowers_the_models(demo):
    cfg = demo.configure(arguments(demo, "--score-threshold", "0.01"))
    assert cfg.MODEL.FLOW_DET.SCORE_THRESHOLD == 0.01


@pytest.mark.parametrize("words", [["--mode", "ensemble", "--steps", "2"], ["--block", "1"]])
def test_flags_that_the_mode_does_not_read(demo, words):
    with pytest.raises(ValueError, match="is for"):
        demo.configure(arguments(demo, *words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "fast"], "multi_step_ensemble"),
        (["--steps", "0"], "at least 1, got '0'"),
        (["--score-threshold", "50"], "from 0 to 1"),
        (["--device", "abacus"], "no device"),
        (["--json", "."], "is a folder"),
        (["--animate", "avi"], "'gif', 'mp4'"),
        (["--show"], "--show is not for images"),
        (["--video", "z"], "not allowed with argument --input"),
    ],
)
def test_wrong_flags_are_refused(demo, capsys, words, said):
    with pytest.raises(SystemExit):
        arguments(demo, *words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "x"], "--output, --json or both, or --show"),
        (["--webcam"], "--output, --json or both, or --show"),
        (["--webcam", "front", "--show"], "'front' is no number of a camera"),
        (["--video", "x", "--output", "y", "--trajectory"], "--trajectory is not for videos"),
        (["--webcam", "--output", "y", "--animate", "gif"], "--animate is not for videos"),
        (["--input", "x", "--json", "y", "--animate", "gif"], "--animate draws: give --output"),
    ],
)
def test_wrong_flags_for_videos_are_refused(demo, capsys, words, said):
    with pytest.raises(SystemExit):
        demo.parse_args(["--config-file", CONFIG, *words])
    assert said in capsys.readouterr().err


def test_frames_of_a_camera_come_one_by_one(demo):
    words = ["--config-file", CONFIG, "--webcam", "1", "--show"]
    assert demo.configure(demo.parse_args(words)).TEST.BATCH_SIZE == 1
    args = demo.parse_args([*words, "--batch-size", "4"])
    assert args.webcam == 1 and demo.configure(args).TEST.BATCH_SIZE == 4


def test_something_must_be_written(demo, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args(["--config-file", CONFIG, "--input", "x"])
    assert "--output, --json" in capsys.readouterr().err


def classify(demo, *words, config=CLASSIFIER):
    words = ["--config-file", config, *map(str, words), "--device", "cpu"]
    return demo.parse_args([*words, "--opts", *TINY_CLASSIFIER])


def test_classes_of_a_folder(images, classifier_weights, tmp_path):
    found = tmp_path / "out" / "classes.json"
    done = run(
        *("--config-file", CLASSIFIER, "--weights", classifier_weights, "--classify"),
        *("--input", images, "--json", found, "--top", 3, "--batch-size", 1),
        *("--mode", "multi_step", "--steps", 3, "--device", "cpu", "--opts", *TINY_CLASSIFIER),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(images / "image0.png") and lines[4] == str(images / "image1.png")
    rows = json.loads(found.read_text())
    assert [row["image_id"] for row in rows] == ["image0", "image1"]
    for row, first in zip(rows, (1, 5), strict=True):
        assert len(row["top"]) == 3
        for line, best in zip(lines[first : first + 3], row["top"]):
            assert line == f"{100 * best['probability']:6.1f} %  {best['class']}"
    assert lines[8] == f"{found}: classes of 2 images"


def test_five_classes_and_no_file(demo, images, classifier_weights, capsys):
    demo.main(classify(demo, "--weights", classifier_weights, "--input", f"{images}/*0.png"))
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_flags_override_the_config_of_a_classifier(demo):
    words = ["--input", "x", "--batch-size", "3"]
    cfg = demo.configure(classify(demo, *words, "--mode", "single_step", "--block", "1"))
    node = cfg.MODEL.FLOW_CLS
    assert (node.INFERENCE_MODE, node.SINGLE_STEP_BLOCK) == ("single_step", 1)
    assert cfg.TEST.BATCH_SIZE == 3
    cfg = demo.configure(classify(demo, *words, "--mode", "multi_step", "--steps", "7"))
    assert cfg.MODEL.FLOW_CLS.NUM_STEPS == 7


@pytest.mark.parametrize("words", [["--mode", "ensemble", "--steps", "2"], ["--block", "1"]])
def test_flags_that_the_mode_of_a_classifier_does_not_read(demo, words):
    with pytest.raises(ValueError, match="is for"):
        demo.configure(classify(demo, "--input", "x", *words))


@pytest.mark.parametrize("words", [["--mode", "ensemble"], ["--steps", "2"], ["--block", "0"]])
def test_models_trained_by_backprop_have_no_modes(demo, words):
    args = classify(demo, "--input", "x", *words, config=BACKPROP_CLASSIFIER)
    with pytest.raises(ValueError, match="a BackpropClassifier has no inference modes"):
        demo.configure(args)
    args = arguments(demo, *words)
    args.config_file = BACKPROP
    with pytest.raises(ValueError, match="a BackpropDetector has no inference modes"):
        demo.configure(args)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "y"], "--output: only for detectors"),
        (["--trajectory"], "--trajectory: only for detectors"),
        (["--disagreement"], "--disagreement: only for detectors"),
        (["--animate", "gif"], "--animate: only for detectors"),
        (["--score-threshold", "0"], "--score-threshold: only for detectors"),
        (["--output", "y", "--trajectory"], "--output, --trajectory: only for detectors"),
        (["--top", "0"], "at least 1, got '0'"),
        (["--json", "."], "is a folder"),
    ],
)
def test_wrong_flags_for_classifiers_are_refused(demo, capsys, words, said):
    with pytest.raises(SystemExit):
        classify(demo, "--input", "x", *words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("source", [["--video", "x"], ["--webcam"]])
def test_classifiers_take_no_videos(demo, capsys, source):
    with pytest.raises(SystemExit):
        classify(demo, *source)
    assert f"{source[0]}: only for detectors" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--classify"], ["--top", "3"]])
def test_flags_of_classifiers_with_a_detector(demo, capsys, words):
    with pytest.raises(SystemExit):
        arguments(demo, *words)
    assert f"{words[0]}: only for classifiers" in capsys.readouterr().err
