"""tools/demo.py, from the command line to the files it writes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flowdet.cli import demo, run_demo
from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config
from flowdet.inference import video_writer
from flowdet.inference.pipeline import TRAJECTORY_FRAMES
from flowdet.inference.video import VideoFile
from flowdet.inference.video_writer import VideoWriter
from tests.cli.commands import SMALL_VIT
from tests.cli.conftest import ROOT
from tests.videos import read_video, write_gray_video

CONFIG = str(ROOT / "configs" / "digits_flow.yaml")
CLASSIFIER = str(ROOT / "configs" / "cls" / "digits_flow_vit.yaml")
BACKPROP = str(ROOT / "configs" / "digits_backprop.yaml")
BACKPROP_CLASSIFIER = ["MODEL.META_ARCHITECTURE", "BackpropClassifier"]


def untrained(config, overrides=()):
    torch.manual_seed(0)
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", *overrides])
    return build_model(resolve_config(cfg, training=False))


def save(folder, model):
    FlowDetCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained detector that detects a three at every query, with scores above 0.5."""
    model = untrained(CONFIG)
    with torch.no_grad():
        model.heads.classes.bias[3] += 3
        model.heads.classes.bias[-1] -= 10
    return save(tmp_path_factory.mktemp("weights"), model)


@pytest.fixture(scope="module")
def classifier_weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights"), untrained(CLASSIFIER, SMALL_VIT))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(96, 96), (40, 130)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i}.png")
    return folder


def test_images_on_a_sheet_with_trajectory_and_json(run, images, weights, tmp_path):
    sheet, detections = tmp_path / "out" / "sheet.png", tmp_path / "out" / "detections.json"
    status, output = run(
        *("tools/demo.py", "--config-file", CONFIG, "--weights", weights),
        *("--input", f"{images}/*", "--output", sheet, "--json", detections),
        *("--trajectory", "--steps", 2, "--device", "cpu", "--batch-size", 1),
    )
    assert status == 0, output
    assert str(sheet) in output and "2 images" in output
    assert sorted(x.name for x in sheet.parent.iterdir()) == [
        "detections.json",
        "sheet.png",
        "sheet_trajectory.png",
    ]
    assert Image.open(sheet).width > 2 * 320
    rows = json.loads(detections.read_text())
    assert {row["image_id"] for row in rows} == {"image0", "image1"}


def test_explorer_with_the_ground_truth_of_an_annotation_file(images, weights, tmp_path, capsys):
    annotations, page = tmp_path / "boxes.json", tmp_path / "out" / "page.html"
    objects = [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "iscrowd": 1}]
    content = {"images": [{"id": 7, "file_name": "image1.png"}], "annotations": objects}
    categories = [{"id": 2, "name": "3"}]
    annotations.write_text(json.dumps(content | {"categories": categories}))
    words = ["--input", images, "--explore", page, "--noise-seeds", 1, "--steps", 2]
    assert demo.main(detector_words(weights, *words, "--annotations", annotations)) == 0
    printed = capsys.readouterr()
    assert f"{page}: 1 image\n" in printed.out and "image0.png" in printed.err
    assert '"truth":[["3",1,2,11,22,1]]' in page.read_text()
    # the images are in no dataset
    assert demo.main(detector_words(weights, *words)) == 0
    printed = capsys.readouterr()
    assert f"{page}: 2 images\n" in printed.out and "no ground truth" in printed.err
    assert '"truth":' not in page.read_text()


def test_an_error_is_one_line(run, images):
    status, output = run(
        *("tools/demo.py", "--config-file", CONFIG, "--input", images / "gone.png"),
        *("--output", "out"),
    )
    assert status == 1
    assert output.startswith("error: ") and "gone.png" in output
    assert output.count("\n") == 1


def detector_words(weights, *words):
    return ["--config-file", CONFIG, "--weights", weights, "--device", "cpu", *map(str, words)]


BROKEN = [b"", b"<html><body>404 Not Found</body></html>", None]


@pytest.mark.parametrize("content", BROKEN, ids=["empty", "html", "truncated"])
@pytest.mark.parametrize("named", [False, True], ids=["folder", "files"])
def test_a_broken_image_is_skipped(images, weights, tmp_path, capsys, content, named):
    """In the middle of a batch; the other images are done, drawn and written."""
    good = (images / "image1.png").read_bytes()
    (images / "image0b.png").write_bytes(good[: len(good) // 2] if content is None else content)
    out, detections = tmp_path / "out", tmp_path / "detections.json"
    inputs = sorted(images.iterdir()) if named else [images]
    words = ["--input", *inputs, "--output", f"{out}/", "--json", detections]
    assert demo.main(detector_words(weights, *words)) == 1
    assert sorted(x.name for x in out.iterdir()) == ["image0.png", "image1.png"]
    assert {x["image_id"] for x in json.loads(detections.read_text())} == {"image0", "image1"}
    printed = capsys.readouterr()
    assert "2 images with" in printed.out and "detections in 2 images" in printed.out
    skipped, last = printed.err.splitlines()
    assert skipped.startswith("skipped: ") and skipped.count("image0b.png") == 1
    assert last == "error: 1 of 3 images were skipped, see above"


@pytest.mark.parametrize("name", ["broken.png", "IMG_1.HEIC", "notes.txt"])
def test_a_single_broken_image_is_one_line(weights, tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"no image")
    words = ["--input", tmp_path / name, "--json", tmp_path / "x.json"]
    assert demo.main(detector_words(weights, *words)) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and name in printed.err
    assert printed.err.count("\n") == 1
    assert ("convert it to jpg" in printed.err) == (name == "IMG_1.HEIC")
    assert json.loads((tmp_path / "x.json").read_text()) == []


def test_photos_of_a_phone_are_named(images, weights, tmp_path, capsys):
    (images / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (images / "._image0.png").write_bytes(b"\0")
    words = ["--input", images, "--json", tmp_path / "x.json"]
    assert demo.main(detector_words(weights, *words)) == 0
    message = "passed over: IMG_0001.HEIC: convert it to jpg or png\n"
    assert capsys.readouterr().err == message


def test_an_output_that_cannot_be_written_is_one_line(images, weights, tmp_path):
    (tmp_path / "notes").write_text("")
    for words in (["--output", tmp_path / "notes" / "out/"], ["--json", tmp_path / "notes" / "x"]):
        with pytest.raises(SystemExit) as end:
            demo.main(detector_words(weights, "--input", images, *words))
        assert str(end.value).startswith("error: ") and "notes" in str(end.value)
        assert "\n" not in str(end.value)


@pytest.fixture
def annotations(images):
    """A COCO file of the images, in which the category "3" has the id 70."""
    categories = [{"id": 10 * (9 - i) + 10, "name": str(i)} for i in range(10)]
    content = {
        "images": [
            {"id": 41, "file_name": "C:\\made\\here\\image1.png", "width": 130, "height": 40},
            {"id": 0, "file_name": "image0.png", "width": 96, "height": 96},
        ],
        "categories": categories,
        "annotations": [
            {"image_id": 0, "bbox": [1, 2, 30, 20]},
            {"image_id": 41, "bbox": [9, 9, 30, 20]},
        ],
    }
    for number, annotation in enumerate(content["annotations"], 1):
        annotation |= {"id": number, "category_id": 70, "area": 600, "iscrowd": 0}
    path = images.parent / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    return path


def test_detections_with_the_ids_of_an_annotation_file(images, weights, annotations, tmp_path):
    """COCO's API compares them with the file."""
    detections = tmp_path / "detections.json"
    words = ["--input", images, "--json", detections, "--annotations", annotations]
    assert demo.main(detector_words(weights, *words)) == 0
    rows = json.loads(detections.read_text())
    ids = {(Path(row["file_name"]).name, row["image_id"]) for row in rows}
    assert ids == {("image0.png", 0), ("image1.png", 41)}
    assert {(row["category_name"], row["category_id"]) for row in rows} == {("3", 70)}
    # detections equal to the ground truth
    (tmp_path / "plain.json").write_text(annotations.read_text(encoding="utf-8-sig"))
    coco = COCO(str(tmp_path / "plain.json"))
    for row, box in zip(rows[:1] + rows[-1:], ([1, 2, 30, 20], [9, 9, 30, 20])):
        row |= {"bbox": box, "score": 1.0}
    evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_an_annotation_file_limits_the_images(images, weights, annotations, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(images / "another.png")
    (images / "image1.png").write_bytes(b"")
    words = ["--input", images, "--json", tmp_path / "x.json", "--annotations", annotations]
    assert demo.main(detector_words(weights, *words, "--output", f"{tmp_path}/out/")) == 1
    assert {row["image_id"] for row in json.loads((tmp_path / "x.json").read_text())} == {0}
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["image0.png"]
    first, skipped, last = capsys.readouterr().err.splitlines()
    assert first.startswith("passed over") and first.endswith("another.png")
    assert "image1.png" in skipped and "1 of 2 images" in last


def test_a_folder_of_pictures(images, weights, tmp_path, capsys):
    words = ["--config-file", CONFIG, "--weights", weights, "--input", str(images)]
    assert demo.main([*words, "--output", f"{tmp_path}/new/", "--device", "cpu"]) == 0
    assert sorted(x.name for x in (tmp_path / "new").iterdir()) == ["image0.png", "image1.png"]
    output = capsys.readouterr().out
    (count,) = re.findall(r"2 images with (\d+) detections of at least 50%", output)
    assert int(count) >= 2


def test_animation_and_block_disagreement(images, weights, tmp_path):
    words = ["--config-file", CONFIG, "--weights", weights, "--input", str(images / "image0.png")]
    out = tmp_path / "out"
    words += ["--output", f"{out}/", "--json", f"{out}/detections.json"]
    words += ["--score-threshold", "0.1", "--animate", "gif", "--disagreement"]
    assert demo.main([*words, "--device", "cpu"]) == 0
    assert sorted(x.name for x in out.iterdir()) == [
        "detections.json",
        "image0.png",
        "image0_trajectory.gif",
    ]
    assert Image.open(out / "image0_trajectory.gif").n_frames == TRAJECTORY_FRAMES + 1
    spreads = [row["box_spread"] for row in json.loads((out / "detections.json").read_text())]
    assert spreads and min(spreads) > 0


def video_words(weights, path, *words):
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu", *map(str, words)]
    return [*words, "--video", str(path), "--score-threshold", "0.1", "--batch-size", "2"]


def test_video_to_video_and_json(run, weights, tmp_path):
    clip = write_gray_video(tmp_path / "clip.avi", count=5, fps=12.5)
    out = tmp_path / "out"
    words = video_words(weights, clip, "--output", f"{out}/", "--json", out / "detections.json")
    status, output = run("tools/demo.py", *words)
    assert status == 0, output
    assert f"{out / 'clip.avi'}: 5 frames with" in output
    # there is no progress bar in a pipe
    assert "frame/s" not in output
    frames, fps = read_video(out / "clip.avi")
    assert len(frames) == 5 and fps == 12.5
    assert frames[0].shape == (240, 320, 3)
    rows = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == set(range(5))
    assert {row["file_name"] for row in rows} == {str(clip)}
    # in pixels of the clip
    assert max(row["bbox"][0] + row["bbox"][2] for row in rows) <= 64
    assert sorted(x.name for x in out.iterdir()) == ["clip.avi", "detections.json"]


def test_a_frame_gives_the_detections_of_the_same_image(weights, tmp_path):
    clip = write_gray_video(tmp_path / "clip.avi", count=3)
    run_demo.detect(demo.parse_args(video_words(weights, clip, "--json", tmp_path / "video.json")))
    pixels = list(VideoFile(clip))[2]["image"]
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu"]
    words += ["--input", str(tmp_path / "frame.png"), "--json", str(tmp_path / "image.json")]
    run_demo.detect(demo.parse_args(words))
    video, image = (json.loads((tmp_path / f"{x}.json").read_text()) for x in ("video", "image"))
    last = [row for row in video if row["image_id"] == 2]
    assert [row["category_id"] for row in last] == [row["category_id"] for row in image]
    assert image
    # both are rounded to 0.01 pixel
    np.testing.assert_allclose(
        [row["bbox"] for row in last], [row["bbox"] for row in image], atol=0.02
    )


def test_ctrl_c_keeps_what_is_written(weights, tmp_path, monkeypatch, capsys):
    clip = write_gray_video(tmp_path / "clip.avi", count=9)
    add = VideoWriter.add

    def interrupt_the_fourth(video_writer, picture, number=None):
        if video_writer.count == 3:
            raise KeyboardInterrupt
        add(video_writer, picture, number)

    monkeypatch.setattr(VideoWriter, "add", interrupt_the_fourth)
    out, detections = tmp_path / "out.mp4", tmp_path / "detections.json"
    words = video_words(weights, clip, "--output", out, "--json", detections)
    assert run_demo.detect(demo.parse_args(words)) == 130
    assert len(read_video(out)[0]) == 3
    assert {row["image_id"] for row in json.loads(detections.read_text())} == {0, 1, 2}
    output = capsys.readouterr().out
    assert output.count("stopped by Ctrl-C") == 2 and "in 3 frames" in output
    assert sorted(x.name for x in tmp_path.iterdir()) == ["clip.avi", "detections.json", "out.mp4"]


def test_a_camera_is_shown_until_its_window_is_closed(weights, tmp_path, monkeypatch, capsys):
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

    monkeypatch.setattr(run_demo, "Camera", Camera)
    monkeypatch.setattr(run_demo, "Window", Window)
    words = ["--config-file", CONFIG, "--weights", weights, "--device", "cpu"]
    words += ["--webcam", "2", "--show", "--output", str(tmp_path / "out.mp4")]
    assert run_demo.detect(demo.parse_args(words)) == 0
    assert Window.shown == 4 and Window.closed
    assert len(read_video(tmp_path / "out.mp4")[0]) == 4
    assert "4 frames with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("video", "output", "message"),
    [
        ("gone.mp4", "out.mp4", "no video file"),
        ("notes.mp4", "out.mp4", "finds no video in it"),
        ("clip.avi", "out.gif", "does not have the suffix of a video"),
        ("clip.avi", "clip.avi", "is the input video itself"),
    ],
)
def test_impossible_videos_and_outputs_are_refused(tmp_path, video, output, message):
    write_gray_video(tmp_path / "clip.avi")
    (tmp_path / "notes.mp4").write_text("no frames at all")
    before = (tmp_path / "clip.avi").read_bytes()
    words = ["--config-file", CONFIG, "--video", str(tmp_path / video)]
    # before weights are loaded: this config has none
    with pytest.raises((OSError, ValueError), match=message):
        run_demo.detect(demo.parse_args([*words, "--output", str(tmp_path / output)]))
    assert (tmp_path / "clip.avi").read_bytes() == before


def test_show_without_a_display_is_refused(weights, tmp_path, monkeypatch):
    clip = write_gray_video(tmp_path / "clip.avi")
    monkeypatch.setattr(video_writer, "has_windows", lambda: False)
    with pytest.raises(ValueError, match="has no windows"):
        run_demo.detect(demo.parse_args(video_words(weights, clip, "--show")))


def arguments(*words):
    return demo.parse_args(["--config-file", CONFIG, "--input", "x", "--output", "y", *words])


def test_flags_override_the_config():
    cfg = run_demo.configure(
        arguments(
            *("--mode", "single_step", "--block", "2", "--batch-size", "3"),
            *("--opts", "MODEL.FLOW_DET.NMS_THRESHOLD", "0.7", "TEST.BATCH_SIZE", "9"),
        )
    )
    node = cfg.MODEL.FLOW_DET
    assert (node.INFERENCE_MODE, node.SINGLE_STEP_BLOCK) == ("single_step", 2)
    assert (node.NMS_THRESHOLD, cfg.TEST.BATCH_SIZE) == (0.7, 3)
    assert node.SCORE_THRESHOLD == 0.05


def test_a_low_threshold_lowers_the_threshold_of_the_model():
    cfg = run_demo.configure(arguments("--score-threshold", "0.01"))
    assert cfg.MODEL.FLOW_DET.SCORE_THRESHOLD == 0.01


@pytest.mark.parametrize("words", [["--mode", "ensemble", "--steps", "2"], ["--block", "1"]])
def test_flags_that_the_mode_does_not_use_are_refused(words):
    with pytest.raises(ValueError, match="is for"):
        run_demo.configure(arguments(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "fast"], "multi_step_ensemble"),
        (["--steps", "0"], "at least 1, got '0'"),
        (["--score-threshold", "50"], "from 0 to 1"),
        (["--device", "abacus"], "not a torch device"),
        (["--json", "."], "is a folder"),
        (["--animate", "avi"], "'gif', 'mp4'"),
        (["--show"], "--show is not for images"),
        (["--annotations", "x.json"], "--annotations needs --json or --explore"),
        (["--noise-seeds", "2"], "--noise-seeds needs --explore"),
        (["--explore", "page.html"], "leave out --output"),
        (["--video", "z"], "not allowed with argument --input"),
    ],
)
def test_wrong_flags_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        arguments(*words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--video", "x"], "--output, --json or both, or --show"),
        (["--webcam"], "--output, --json or both, or --show"),
        (["--webcam", "front", "--show"], "'front' is not a camera number"),
        (["--video", "x", "--output", "y", "--trajectory"], "--trajectory is not for videos"),
        (["--webcam", "--output", "y", "--animate", "gif"], "--animate is not for videos"),
        (
            ["--video", "x", "--json", "y", "--annotations", "z"],
            "--annotations is not for videos",
        ),
        (["--input", "x", "--json", "y", "--animate", "gif"], "--animate needs --output"),
        (["--input", "x"], "--json or both, or --explore"),
        (["--input", "x", "--explore", "page.png"], "give the name of an .html file"),
        (["--video", "x", "--explore", "page.html"], "--explore is not for videos"),
    ],
)
def test_wrong_flags_for_videos_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        demo.parse_args(["--config-file", CONFIG, *words])
    assert message in capsys.readouterr().err


def test_frames_of_a_camera_are_processed_one_by_one():
    words = ["--config-file", CONFIG, "--webcam", "1", "--show"]
    assert run_demo.configure(demo.parse_args(words)).TEST.BATCH_SIZE == 1
    args = demo.parse_args([*words, "--batch-size", "4"])
    assert args.webcam == 1 and run_demo.configure(args).TEST.BATCH_SIZE == 4


def test_an_output_is_required(capsys):
    with pytest.raises(SystemExit):
        demo.parse_args(["--config-file", CONFIG, "--input", "x"])
    assert "--output, --json" in capsys.readouterr().err


def classify(*words, overrides=()):
    words = ["--config-file", CLASSIFIER, *map(str, words), "--device", "cpu"]
    return demo.parse_args([*words, "--opts", *SMALL_VIT, *overrides])


def test_classes_of_a_folder(run, images, classifier_weights, tmp_path):
    classes = tmp_path / "out" / "classes.json"
    status, output = run(
        *("tools/demo.py", "--config-file", CLASSIFIER, "--weights", classifier_weights),
        *("--classify", "--input", images, "--json", classes, "--top", 3, "--batch-size", 1),
        *("--mode", "multi_step", "--steps", 3, "--device", "cpu", "--opts", *SMALL_VIT),
    )
    assert status == 0, output
    lines = output.splitlines()
    assert lines[0] == str(images / "image0.png") and lines[4] == str(images / "image1.png")
    rows = json.loads(classes.read_text())
    assert [row["image_id"] for row in rows] == ["image0", "image1"]
    for row, first in zip(rows, (1, 5), strict=True):
        assert len(row["top"]) == 3
        for line, best in zip(lines[first : first + 3], row["top"], strict=True):
            assert line == f"{100 * best['probability']:6.1f} %  {best['class']}"
    assert lines[8] == f"{classes}: classes of 2 images"


def test_a_classifier_skips_a_broken_image(images, classifier_weights, tmp_path, capsys):
    (images / "image0b.png").write_bytes(b"")
    words = ["--weights", classifier_weights, "--input", images, "--json", tmp_path / "x.json"]
    assert run_demo.detect(classify(*words)) == 1
    rows = json.loads((tmp_path / "x.json").read_text())
    assert [row["image_id"] for row in rows] == ["image0", "image1"]
    assert "image0b.png" in capsys.readouterr().err


def test_five_classes_are_printed_by_default(images, classifier_weights, capsys):
    run_demo.detect(classify("--weights", classifier_weights, "--input", f"{images}/*0.png"))
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_flags_override_the_config_of_a_classifier():
    words = ["--input", "x", "--batch-size", "3"]
    cfg = run_demo.configure(classify(*words, "--mode", "single_step", "--block", "1"))
    node = cfg.MODEL.FLOW_CLS
    assert (node.INFERENCE_MODE, node.SINGLE_STEP_BLOCK) == ("single_step", 1)
    assert cfg.TEST.BATCH_SIZE == 3
    cfg = run_demo.configure(classify(*words, "--mode", "multi_step", "--steps", "7"))
    assert cfg.MODEL.FLOW_CLS.NUM_STEPS == 7


@pytest.mark.parametrize("words", [["--mode", "ensemble", "--steps", "2"], ["--block", "1"]])
def test_flags_that_the_mode_of_a_classifier_does_not_use_are_refused(words):
    with pytest.raises(ValueError, match="is for"):
        run_demo.configure(classify("--input", "x", *words))


@pytest.mark.parametrize("words", [["--mode", "ensemble"], ["--steps", "2"], ["--block", "0"]])
def test_models_trained_by_backprop_have_no_modes(words):
    args = classify("--input", "x", *words, overrides=BACKPROP_CLASSIFIER)
    with pytest.raises(ValueError, match="a BackpropClassifier has no inference modes"):
        run_demo.configure(args)
    args = arguments(*words)
    args.config_file = BACKPROP
    with pytest.raises(ValueError, match="a BackpropDetector has no inference modes"):
        run_demo.configure(args)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "y"], "--output: only for detectors"),
        (["--trajectory"], "--trajectory: only for detectors"),
        (["--disagreement"], "--disagreement: only for detectors"),
        (["--animate", "gif"], "--animate: only for detectors"),
        (["--score-threshold", "0"], "--score-threshold: only for detectors"),
        (["--annotations", "x"], "--annotations: only for detectors"),
        (["--output", "y", "--trajectory"], "--output, --trajectory: only for detectors"),
        (["--top", "0"], "at least 1, got '0'"),
        (["--json", "."], "is a folder"),
    ],
)
def test_wrong_flags_for_classifiers_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        classify("--input", "x", *words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("source", [["--video", "x"], ["--webcam"]])
def test_classifiers_refuse_videos(capsys, source):
    with pytest.raises(SystemExit):
        classify(*source)
    assert f"{source[0]}: only for detectors" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--classify"], ["--top", "3"]])
def test_detectors_refuse_flags_of_classifiers(capsys, words):
    with pytest.raises(SystemExit):
        arguments(*words)
    assert f"{words[0]}: only for classifiers" in capsys.readouterr().err
