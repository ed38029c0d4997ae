"""Small videos for tests."""

import cv2
import numpy as np


def write_gray_video(path, count=5, fps=10.0, size=(48, 64)):
    """Writes gray frames of size (height, width) that get lighter; returns the path."""
    frames = [np.full((*size, 3), 30 + 160 * i // count, np.uint8) for i in range(count)]
    return write_video(path, frames, fps)


def write_video(path, frames, fps=10.0):
    """Writes uint8 RGB frames [H, W, 3]; returns the path."""
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def read_video(path):
    """The frames of a video (uint8 BGR [H, W, 3]) and its frames per second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        success, frame = capture.read()
        if not success:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)
