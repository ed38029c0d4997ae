"""Small videos for tests."""

import cv2
import numpy as np


def grey_video(path, count=5, fps=10.0, size=(48, 64), frames=None):
    """Writes frames that get lighter, or the given ones (RGB [H, W, 3]); returns the path."""
    if frames is None:
        frames = [np.full((*size, 3), 30 + 160 * i // count, np.uint8) for i in range(count)]
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def read_video(path):
    """The frames of a video (BGR [H, W, 3]), and their number per second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)
