"""The loops over images and frames: what is counted, written, shown and printed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from flowdet.inference.pipeline import classify_images, detect_frames, detect_images
from flowdet.inference.video_writer import VideoWriter
from flowdet.visualization.drawing import DetectionVisualizer
from tests.videos import read_video


class FakePredictor:
    """Finds two boxes in every image, with scores 0.9 and 0.3; can be interrupted."""

    def __init__(self, interrupt_after=None):
        self.interrupt_after = interrupt_after

    def stream(self, images, trajectory=False, analyses=()):
        for i, image in enumerate(images):
            if i == self.interrupt_after:
                raise KeyboardInterrupt
            yield {
                "file_name": str(image),
                "image_id": i,
                "pixels": np.zeros((20, 30, 3), np.uint8),
                "instances": Instances(
                    (20, 30),
                    pred_boxes=Boxes(torch.tensor([[1.0, 1, 9, 9], [5, 5, 20, 15]])),
                    scores=torch.tensor([0.9, 0.3]),
                    pred_classes=torch.tensor([0, 0]),
                ),
            }

    def coco_results(self, result):
        return [{"image_id": result["image_id"]}] * len(result["instances"])

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


def test_all_detections_are_written_and_confident_ones_are_counted(visualizer, tmp_path, capsys):
    files, rows = [Path("a.png"), Path("b.png")], tmp_path / "rows.json"
    detect_images(FakePredictor(), files, visualizer, f"{tmp_path}/out/", rows)
    assert image_ids(rows) == [0, 0, 1, 1]
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    printed = capsys.readouterr().out
    assert "2 images with 2 detections of at least 50%" in printed
    assert f"{rows}: 4 detections in 2 images" in printed


def test_classes_are_printed_and_written(tmp_path, capsys):
    rows = tmp_path / "rows.json"
    classify_images(FakePredictor(), [Path("a.png"), Path("b.png")], 3, rows)
    assert [row["file_name"] for row in json.loads(rows.read_text())] == ["a.png", "b.png"]
    assert capsys.readouterr().out.splitlines()[:2] == ["a.png: 3 classes", "b.png: 3 classes"]


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
