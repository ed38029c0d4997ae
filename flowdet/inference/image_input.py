"""Converts the image inputs of a predictor (path, array, PIL image) to dataset dicts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ImageInput = str | Path | np.ndarray | Image.Image | dict


def image_record(image: ImageInput, number: int = 0, bgr: bool = False) -> dict:
    """Converts an image to a dataset dict: `image_id`, `file_name` and, if in memory, `image`.

    Args:
        image: a path; a uint8 array [H, W, 3], or [H, W] for gray; a PIL image, which is rotated
            according to its EXIF orientation; or a dict with `file_name` and optionally `image_id`
            and `image` (uint8 RGB [H, W, 3]).
        number: the image id of an image without a file name.
        bgr: whether the channels of an array are in the order BGR (OpenCV), not RGB.

    Raises:
        ValueError: an array has another type or shape, or a dict has no `file_name`.
        TypeError: `image` has none of these types.
    """
    if isinstance(image, dict):
        return _checked_dict(image)
    if isinstance(image, (str, os.PathLike)):
        return {"file_name": os.fspath(image), "image_id": Path(image).stem}
    if isinstance(image, Image.Image):
        image, bgr = np.asarray(ImageOps.exif_transpose(image).convert("RGB")), False
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image is a path, a numpy array or a PIL image, not a {type(image).__name__}"
        )
    pixels = _rgb(image, bgr)
    return {"file_name": f"image {number}", "image_id": number, "image": pixels}


def _checked_dict(record: dict) -> dict:
    if "file_name" not in record:
        raise ValueError(f"an image dict needs `file_name`, but this one has {sorted(record)}")
    return {"image_id": Path(record["file_name"]).stem, **record}


def _rgb(pixels: np.ndarray, bgr: bool) -> np.ndarray:
    """Checks an array and returns it as RGB [H, W, 3]."""
    given = f"got {pixels.dtype} of shape {list(pixels.shape)}"
    if pixels.ndim == 4:
        raise ValueError(f"an image has 3 dimensions, {given}: give several images as a list")
    if pixels.dtype != np.uint8:
        hint = ": multiply values in [0, 1] by 255" if pixels.dtype.kind == "f" else ""
        raise ValueError(f"an image must be uint8 with values from 0 to 255, {given}{hint}")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            f"an image must be [H, W, 3], or gray [H, W], {given}{_shape_hint(pixels)}"
        )
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., ::-1] if bgr else pixels


def _shape_hint(pixels: np.ndarray) -> str:
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        return ": put the channels last, image.transpose(1, 2, 0)"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return ": leave out the alpha channel, image[..., :3]"
    return ""
