"""Converts the image inputs of a predictor (path, array, PIL image) to dataset dicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowdet.data.image_reader import pil_to_rgb
from flowdet.data.pixel_values import scale_to_uint8

ImageInput = str | Path | np.ndarray | Image.Image | dict


def image_record(
    image: ImageInput, number: int = 0, bgr: bool = False, value_range: Sequence[float] = ()
) -> dict:
    """Converts an image to a dataset dict: `image_id`, `file_name` and, if in memory, `image`.

    Args:
        image: a path; an array [H, W, 3], [H, W, 4] (the alpha channel is dropped), or [H, W] for
            gray; a PIL image of any mode, which is rotated according to its EXIF orientation; or a
            dict with `file_name` and optionally `image_id` and `image` (uint8 RGB [H, W, 3]).
            Arrays are uint8, uint16 or float.
        number: the image id of an image without a file name.
        bgr: whether the channels of an array are in the order BGR (OpenCV), not RGB.
        value_range: `INPUT.VALUE_RANGE`, for images in memory that are not 8-bit: values in this
            range are scaled to 0..255. () is 0..65535 for uint16 and 0..1 for floats.

    Raises:
        ValueError: an array has another type or shape, values are outside of the range, or a dict
            has no `file_name`.
        TypeError: `image` has none of these types.
        OSError: the file of a PIL image is broken.
    """
    if isinstance(image, dict):
        return _checked_dict(image)
    if isinstance(image, (str, os.PathLike)):
        return {"file_name": os.fspath(image), "image_id": Path(image).stem}
    name = f"image {number}"
    if isinstance(image, Image.Image):
        pixels = pil_to_rgb(image, value_range, name)
    elif isinstance(image, np.ndarray):
        pixels = _rgb(scale_to_uint8(_checked(image), value_range, name), bgr)
    else:
        raise TypeError(
            f"an image is a path, a numpy array or a PIL image, not a {type(image).__name__}"
        )
    return {"file_name": name, "image_id": number, "image": pixels}


def _checked_dict(record: dict) -> dict:
    if "file_name" not in record:
        raise ValueError(f"an image dict needs `file_name`, but this one has {sorted(record)}")
    return {"image_id": Path(record["file_name"]).stem, **record}


def _checked(pixels: np.ndarray) -> np.ndarray:
    """Returns an array as [H, W, C] if it is an image, otherwise raises ValueError."""
    given = f"got {pixels.dtype} of shape {list(pixels.shape)}"
    if pixels.ndim == 4:
        raise ValueError(f"an image has 3 dimensions, {given}: give several images as a list")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise ValueError(
            "an image must be uint8 (values from 0 to 255), uint16 (0 to 65535) or float (0 to 1), "
            f"{given}"
        )
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        channels_first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        hint = ": put the channels last, image.transpose(1, 2, 0)" if channels_first else ""
        raise ValueError(f"an image must be [H, W, 3], or gray [H, W], {given}{hint}")
    return pixels


def _rgb(pixels: np.ndarray, bgr: bool) -> np.ndarray:
    """Converts [H, W, C] to RGB [H, W, 3]."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., 2::-1] if bgr else pixels[..., :3]
