"""Frames of videos and cameras: order, numbers, channels and errors."""

import logging

import cv2
import numpy as np
import pytest

from flowdet.inference.video import Camera, VideoFile
from tests.videos import write_gray_video, write_video


def test_frames_are_in_order_and_numbered(tmp_path):
    path = write_gray_video(tmp_path / "clip.mp4", count=7, fps=12.5)
    video = VideoFile(path)
    assert (video.name, video.fps, video.count) == (str(path), 12.5, 7)
    frames = list(video)
    assert [frame["image_id"] for frame in frames] == list(range(7))
    assert {frame["file_name"] for frame in frames} == {str(path)}
    assert all(frame["image"].shape == (48, 64, 3) for frame in frames)
    brightness = [frame["image"].mean() for frame in frames]
    assert brightness == sorted(brightness) and brightness[-1] > brightness[0] + 100


def test_channels_are_rgb(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    path = write_video(tmp_path / "red.avi", [red] * 2)
    assert next(iter(VideoFile(path)))["image"].mean(axis=(0, 1)).argmax() == 0


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video file.*gone.mp4"):
        VideoFile(tmp_path / "gone.mp4")


def test_a_file_that_is_not_a_video(tmp_path, capfd):
    (tmp_path / "notes.mp4").write_text("no frames at all")
    with pytest.raises(OSError, match="notes.mp4: OpenCV finds no video"):
        VideoFile(tmp_path / "notes.mp4")
    # OpenCV itself prints nothing
    assert capfd.readouterr().err == ""


class FakeCapture:
    """Replaces cv2.VideoCapture: black frames and chosen properties."""

    def __init__(self, frames=3, count=0.0, fps=10.0, opened=True):
        self.frames_left, self.opened = frames, opened
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}
        self.released = False

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opened

    def get(self, key):
        return self.properties[key]

    def read(self):
        self.frames_left -= 1
        return self.frames_left >= 0, np.zeros((4, 6, 3), np.uint8)

    def release(self):
        self.released = True


def fake_capture(monkeypatch, **settings):
    """Makes OpenCV open a `FakeCapture` with these settings; returns it."""
    capture = FakeCapture(**settings)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: capture)
    return capture


def test_a_video_that_ends_too_early_is_logged(monkeypatch, tmp_path, caplog):
    (tmp_path / "cut.mp4").touch()
    fake_capture(monkeypatch, frames=3, count=9.0)
    with caplog.at_level(logging.WARNING):
        assert len(list(VideoFile(tmp_path / "cut.mp4"))) == 3
    assert "should have 9 frames, but ends after 3" in caplog.text


def test_a_video_without_a_readable_frame(monkeypatch, tmp_path):
    (tmp_path / "empty.mp4").touch()
    fake_capture(monkeypatch, frames=0, count=9.0)
    with pytest.raises(OSError, match="empty.mp4: none of its frames"):
        list(VideoFile(tmp_path / "empty.mp4"))


@pytest.mark.parametrize(
    ("fps", "expected"), [(0.0, 25), (float("nan"), 25), (90000, 25), (50, 50)]
)
def test_unknown_length_and_impossible_frame_rate(monkeypatch, tmp_path, fps, expected):
    (tmp_path / "odd.mp4").touch()
    fake_capture(monkeypatch, count=-1.0, fps=fps)
    video = VideoFile(tmp_path / "odd.mp4")
    assert video.count is None and video.fps == expected


def test_frame_numbers_of_a_camera_follow_the_clock(monkeypatch):
    fake_capture(monkeypatch, frames=5, fps=10.0)
    # the model is as fast as the camera, then slower; the camera is faster than its frame rate
    times = iter([100.0, 100.0, 100.1, 100.55, 100.56, 100.9])
    camera = Camera(0, clock=lambda: next(times))
    assert [frame["image_id"] for frame in camera] == [0, 1, 5, 6, 9]
    assert camera.count is None and camera.name == "camera 0"


def test_missing_camera_and_camera_without_images(monkeypatch):
    fake_capture(monkeypatch, opened=False)
    with pytest.raises(OSError, match="cannot open camera 3"):
        Camera(3)
    fake_capture(monkeypatch, frames=0)
    with pytest.raises(OSError, match="camera 1 returns no image"):
        list(Camera(1))


def test_close_releases_the_source(monkeypatch):
    capture = fake_capture(monkeypatch)
    Camera(0).close()
    assert capture.released
