"""The loops over images and frames: what is counted, written, shown and printed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.inference.image_input import image_record
from flowdet.inference.pipeline import (
    JsonIds,
    classify_images,
    detect_frames,
    detect_images,
)
from flowdet.inference.video_writer import VideoWriter
from flowdet.visualization.drawing import DetectionVisualizer
from tests.videos import read_video


class FakePredictor:
    """Finds two boxes in every image, with scores 0.9 and 0.3; can be interrupted.

    Files whose name contains "broken" cannot be read.
    """

    category_ids = (7,)

    def __init__(self, interrupt_after=None, error=KeyboardInterrupt):
        self.interrupt_after, self.error = interrupt_after, error

    def stream(self, images, trajectory=False, analyses=(), on_error=None):
        for i, image in enumerate(images):
            if i == self.interrupt_after:
                raise self.error
            record = image_record(image) if isinstance(image, (Path, dict)) else {}
            file_name = record.get("file_name", str(image))
            if "broken" in file_name:
                on_error(record, OSError(f"cannot read image {file_name}:\n no header"))
                continue
            yield {
                "file_name": file_name,
                "image_id": record.get("image_id", i),
                "pixels": np.zeros((20, 30, 3), np.uint8),
                "instances": Instances(
                    (20, 30),
                    pred_boxes=Boxes(torch.tensor([[1.0, 1, 9, 9], [5, 5, 20, 15]])),
                    scores=torch.tensor([0.9, 0.3]),
                    pred_classes=torch.tensor([0, 0]),
                ),
            }

    def coco_results(self, result, category_ids):
        row = {"image_id": result["image_id"], "category_id": category_ids[0]}
        return [row] * len(result["instances"])

    def text(self, result, top):
        return f"{result['file_name']}: {top} classes"

    def json_row(self, result, top):
        return {"file_name": result["file_name"]}


class FakeWindow:
    """A window that the user closes after some pictures."""

    def __init__(self, close_after):
        self.close_after, self.shown = close_after, 0

    def show(self, picture):
        self.shown += 1
        return self.shown < self.close_after


@pytest.fixture
def visualizer():
    return DetectionVisualizer(["cat"], 0.5)


def image_ids(path):
    return [row["image_id"] for row in json.loads(path.read_text())]


def files(*names):
    return [Path(name) for name in names]


def test_all_detections_are_written_and_confident_ones_are_counted(visualizer, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    outcome = detect_images(
        FakePredictor(), files("a.png", "b.png"), visualizer, f"{tmp_path}/out/", rows
    )
    assert outcome == (0, False) and outcome.exit_status == 0
    assert image_ids(rows) == ["a", "a", "b", "b"]
    assert {row["category_id"] for row in json.loads(rows.read_text())} == {7}
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    printed = capsys.readouterr().out
    assert "2 images with 2 detections of at least 50%" in printed
    assert f"{rows}: 4 detections in 2 images" in printed


def test_classes_are_printed_and_written(tmp_path, capsys):
    rows = tmp_path / "rows.json"
    assert classify_images(FakePredictor(), files("a.png", "b.png"), 3, rows) == (0, False)
    assert [row["file_name"] for row in json.loads(rows.read_text())] == ["a.png", "b.png"]
    assert capsys.readouterr().out.splitlines()[:2] == ["a.png: 3 classes", "b.png: 3 classes"]


SOME_BROKEN = ("a.png", "broken1.png", "c.png", "broken2.jpg", "e.png")


@pytest.mark.parametrize("output", ["out/", "sheet.png"])
def test_broken_images_are_skipped_named_and_counted(visualizer, tmp_path, capsys, output):
    rows = tmp_path / "rows.json"
    outcome = detect_images(
        FakePredictor(), files(*SOME_BROKEN), visualizer, f"{tmp_path}/{output}", rows
    )
    assert outcome == (2, False) and outcome.exit_status == 1
    assert image_ids(rows) == ["a", "a", "c", "c", "e", "e"]
    if output == "out/":
        pictures = sorted(x.name for x in (tmp_path / "out").iterdir())
        assert pictures == ["a.png", "c.png", "e.png"]
    else:
        assert (tmp_path / "sheet.png").is_file()
    printed = capsys.readouterr()
    assert "3 images with 3 detections" in printed.out
    assert [x for x in printed.err.splitlines() if x.startswith(("skipped", "error"))] == [
        "skipped: cannot read image broken1.png: no header",
        "skipped: cannot read image broken2.jpg: no header",
        "error: 2 of 5 images were skipped, see above",
    ]


def test_a_classifier_skips_broken_images(tmp_path, capsys):
    rows = tmp_path / "rows.json"
    outcome = classify_images(FakePredictor(), files(*SOME_BROKEN), 3, rows)
    assert outcome.exit_status == 1
    names = [row["file_name"] for row in json.loads(rows.read_text())]
    assert names == ["a.png", "c.png", "e.png"]
    assert "2 of 5 images" in capsys.readouterr().err


def test_only_broken_images_give_an_empty_list(visualizer, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    two = files("broken1.png", "broken2.png")
    outcome = detect_images(FakePredictor(), two, visualizer, f"{tmp_path}/sheet.png", rows)
    assert outcome.exit_status == 1 and json.loads(rows.read_text()) == []
    assert [x.name for x in tmp_path.iterdir()] == ["rows.json"]
    capsys.readouterr()
    # a single one is one line
    detect_images(FakePredictor(), two[:1], visualizer, f"{tmp_path}/sheet.png", rows)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: cannot read image broken1.png: no header\n")


def test_ctrl_c_keeps_the_finished_images(visualizer, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    names = files("a.png", "b.png", "c.png", "d.png")
    sheet = f"{tmp_path}/sheet.png"
    outcome = detect_images(FakePredictor(3), names, visualizer, sheet, rows)
    assert outcome == (0, True) and outcome.exit_status == 130
    assert image_ids(rows) == ["a", "a", "b", "b", "c", "c"]
    assert (tmp_path / "sheet.png").is_file()
    assert capsys.readouterr().out.count("stopped by Ctrl-C") == 2
    assert classify_images(FakePredictor(3), names, 3, rows).exit_status == 130
    assert len(json.loads(rows.read_text())) == 3


def test_an_error_keeps_the_finished_images(visualizer, tmp_path, capsys):
    rows = tmp_path / "rows.json"
    with pytest.raises(RuntimeError):
        detect_images(
            FakePredictor(2, RuntimeError), files("a.png", "b.png", "c.png"), visualizer, None, rows
        )
    assert image_ids(rows) == ["a", "a", "b", "b"]
    message = f"stopped by an error after 2 images; {rows} has what was written"
    assert message in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        classify_images(FakePredictor(1, RuntimeError), files("a.png", "b.png"), 3, rows)
    assert [row["file_name"] for row in json.loads(rows.read_text())] == ["a.png"]


def test_given_ids_are_written(visualizer, tmp_path):
    rows, ids = tmp_path / "rows.json", JsonIds({Path("a.png"): 5}, [90])
    detect_images(FakePredictor(), files("a.png"), visualizer, None, rows, ids=ids)
    assert json.loads(rows.read_text()) == [{"image_id": 5, "category_id": 90}] * 2


def test_images_with_the_same_image_id_are_reported(visualizer, tmp_path, capsys):
    names = files("x/a.png", "y/a.png", "b.png")
    detect_images(FakePredictor(), names, visualizer, None, tmp_path / "rows.json")
    message = "same image_id in the JSON file, such as 'a' (1 in all): tell them apart by file_name"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["\udcff.png", "图.png"])
def test_names_that_the_terminal_cannot_show_stop_nothing(visualizer, tmp_path, monkeypatch, name):
    """The first one is not valid UTF-8; the second one is not in the terminal's encoding."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", terminal)
    names = [tmp_path / name, Path("b.png")]
    assert classify_images(FakePredictor(), names, 3).exit_status == 0
    detect_images(FakePredictor(), names, visualizer, None, tmp_path / f"{name}.json")
    terminal.flush()
    lines = terminal.buffer.getvalue().decode("latin-1").splitlines()
    assert len(lines) == 3 and "\\u" in lines[0] and "4 detections in 2 images" in lines[2]


class FakeFrames(list):
    count = None


def test_interruption_keeps_the_finished_frames(visualizer, tmp_path, capsys):
    writer, rows = VideoWriter(tmp_path / "out.avi", 10), tmp_path / "rows.json"
    frames = FakeFrames(range(9))
    assert detect_frames(FakePredictor(3), frames, visualizer, writer, None, rows)
    assert len(read_video(tmp_path / "out.avi")[0]) == 3
    assert image_ids(rows) == [0, 0, 1, 1, 2, 2]
    assert capsys.readouterr().out.count("stopped by Ctrl-C") == 2


def test_closing_the_window_ends_the_video(visualizer, tmp_path, capsys):
    window, rows = FakeWindow(close_after=4), tmp_path / "rows.json"
    frames = FakeFrames(range(9))
    assert not detect_frames(FakePredictor(), frames, visualizer, None, window, rows)
    assert window.shown == 4 and image_ids(rows)[-1] == 3
    assert capsys.readouterr().out == f"{rows}: 8 detections in 4 frames\n"
