"""Videos, animations and the window: written files can be read, and errors name the reason."""

import resource
import signal

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from flowdet.inference import video_writer
from flowdet.inference.video_writer import (
    CODECS,
    VideoWriter,
    Window,
    save_animation,
    video_output_path,
)
from tests.videos import read_video


def pictures(count, size=(64, 48)):
    """Gray pictures that get lighter."""
    return [Image.new("RGB", size, (30 + 160 * i // count,) * 3) for i in range(count)]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_written_video_can_be_read(tmp_path, suffix):
    path = tmp_path / "new" / f"clip{suffix}"
    with VideoWriter(path, fps=12.5) as writer:
        for picture in pictures(6):
            writer.add(picture)
        assert not path.exists()
    frames, fps = read_video(path)
    assert len(frames) == writer.count == 6 and fps == pytest.approx(12.5)
    assert frames[0].shape == (48, 64, 3)
    assert [x.name for x in path.parent.iterdir()] == [path.name]


def test_channel_order_is_kept(tmp_path):
    with VideoWriter(tmp_path / "red.avi", 10) as writer:
        writer.add(Image.new("RGB", (64, 48), "red"))
    # OpenCV reads blue, green, red
    assert read_video(tmp_path / "red.avi")[0][0].mean(axis=(0, 1)).argmax() == 2


def test_skipped_numbers_repeat_the_last_frame(tmp_path):
    path = tmp_path / "clip.avi"
    with VideoWriter(path, 10) as writer:
        for picture, number in zip(pictures(3), (0, 3, 4)):
            writer.add(picture, number)
    brightness = [frame.mean() for frame in read_video(path)[0]]
    assert len(brightness) == 5
    np.testing.assert_allclose(brightness, [30, 30, 30, 83, 136], atol=4)


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        writer.add(pictures(1)[0])
        raise KeyError
    with VideoWriter(tmp_path / "nothing.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("count", [1, 12])
def test_a_full_disk_leaves_no_video_without_some_frames(tmp_path, suffix, count):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(12)]
    path = tmp_path / f"video{suffix}"

    def write():
        with VideoWriter(path, 7) as video:
            for frame in frames[:count]:
                video.add(frame)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"^cannot write {path}: OpenCV could not write all"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    write()
    assert len(read_video(path)[0]) == count


def test_a_video_that_opencv_cannot_write(tmp_path):
    with pytest.raises(OSError, match="cannot write .*clip.mp4"):
        VideoWriter(tmp_path / "clip.mp4", fps=-1.0).add(pictures(1)[0])


@pytest.mark.parametrize("name", ["clip.gif", "clip.txt"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="not have the suffix of a video: use one of .mp4"):
        VideoWriter(tmp_path / name, 10)
    with pytest.raises(ValueError, match="not have the suffix of a video"):
        video_output_path(str(tmp_path / name), "in.mp4")


def test_a_file_in_a_folder_is_named_after_the_source(tmp_path):
    assert video_output_path(f"{tmp_path}/a.mp4", "in.avi") == tmp_path / "a.mp4"
    assert video_output_path(str(tmp_path), "x/in.avi") == tmp_path / "in.avi"
    assert video_output_path(f"{tmp_path}/new.1/", "in.webm") == tmp_path / "new.1" / "in.mp4"
    assert video_output_path(f"{tmp_path}/new", "camera 0") == tmp_path / "new" / "camera_0.mp4"


def test_the_input_video_is_not_replaced(tmp_path):
    with pytest.raises(ValueError, match="is the input video itself"):
        video_output_path(str(tmp_path), str(tmp_path / "in.mp4"))


def test_gif_shows_its_ends_longer_and_repeats(tmp_path):
    moving = [Image.new("RGB", (64, 48), "blue") for _ in range(4)]
    for i, picture in enumerate(moving):
        picture.paste("orange", (10 * i, 10, 10 * i + 10, 20))
    save_animation(iter(moving), tmp_path / "new" / "moving.gif")
    gif = Image.open(tmp_path / "new" / "moving.gif")
    frames = [frame.copy() for frame in ImageSequence.Iterator(gif)]
    durations = [frame.info["duration"] for frame in frames]
    assert durations == [750, 60, 60, 2500] and gif.info["loop"] == 0
    for frame, picture in zip(frames, moving):
        np.testing.assert_allclose(np.asarray(frame.convert("RGB")), np.asarray(picture), atol=3)


def test_animation_as_a_video_has_the_same_length(tmp_path):
    save_animation(pictures(4), tmp_path / "moving.mp4")
    frames, fps = read_video(tmp_path / "moving.mp4")
    assert len(frames) == 12 + 2 + 40 and fps == 16


def test_window_needs_an_opencv_with_windows(monkeypatch):
    monkeypatch.setattr(video_writer, "has_windows", lambda: False)
    with pytest.raises(ValueError, match="install opencv-python"):
        Window("clip")


def test_window_needs_a_display(monkeypatch):
    monkeypatch.setattr(video_writer, "has_windows", lambda: True)
    monkeypatch.setattr(video_writer.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="no display"):
        Window("clip")


@pytest.mark.parametrize(
    ("key", "visible", "is_open"),
    [(-1, 1, True), (ord("q"), 1, False), (27, 1, False), (-1, 0, False)],
)
def test_window_ends_by_key_or_when_it_is_closed(monkeypatch, key, visible, is_open):
    shown = []
    monkeypatch.setattr(video_writer, "has_windows", lambda: True)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image)))
    monkeypatch.setattr(cv2, "waitKey", lambda _: key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
    assert Window("clip").show(Image.new("RGB", (6, 4), "red")) is is_open
    title, image = shown[0]
    assert title == "clip" and image.shape == (4, 6, 3) and image[0, 0].tolist() == [0, 0, 255]
