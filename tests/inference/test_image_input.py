"""The kinds of images that a predictor takes, and the errors for others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowdet.inference.image_input import image_record

RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_paths_are_not_read_yet():
    expected = {"file_name": "x/a.jpg", "image_id": "a"}
    assert image_record("x/a.jpg") == image_record(Path("x/a.jpg")) == expected


def test_arrays_are_rgb_by_default():
    record = image_record(RGB, 3)
    assert record["image_id"] == 3 and record["file_name"] == "image 3"
    np.testing.assert_array_equal(record["image"], RGB)
    np.testing.assert_array_equal(image_record(RGB[..., ::-1], bgr=True)["image"], RGB)


@pytest.mark.parametrize("gray", [RGB[..., 0], RGB[..., :1]])
def test_gray_arrays_get_three_channels(gray):
    image = image_record(gray, bgr=True)["image"]
    np.testing.assert_array_equal(image, np.stack([RGB[..., 0]] * 3, axis=-1))


def test_pil_images_are_rotated_by_exif_and_always_rgb():
    picture = Image.fromarray(RGB)
    np.testing.assert_array_equal(image_record(picture, bgr=True)["image"], RGB)
    picture.getexif()[0x0112] = 6
    assert image_record(picture)["image"].shape == (4, 2, 3)
    assert image_record(Image.new("L", (4, 2)))["image"].shape == (2, 4, 3)


def test_dicts_keep_their_keys():
    record = {"file_name": "x/a.jpg", "image_id": 7, "z": 1}
    assert image_record(record) == record
    assert image_record({"file_name": "x/a.jpg"})["image_id"] == "a"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (RGB / 255, ValueError, "uint8 .* got float64 of shape .2, 4, 3.: multiply"),
        (RGB.astype(np.int64), ValueError, "got int64 of shape .2, 4, 3.$"),
        (RGB[None], ValueError, "3 dimensions.*several images as a list"),
        (np.zeros((3, 9, 9), np.uint8), ValueError, "put the channels last"),
        (np.zeros((9, 9, 4), np.uint8), ValueError, "alpha channel"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"must be \[H, W, 3\]"),
        (np.zeros(9, np.uint8), ValueError, r"must be \[H, W, 3\]"),
        (None, TypeError, "not a NoneType"),
        ((x for x in [RGB]), TypeError, "not a generator"),
        ({"image_id": 1}, ValueError, "needs `file_name`, but this one has .'image_id'."),
    ],
)
def test_errors_for_other_inputs(image, error, message):
    with pytest.raises(error, match=message):
        image_record(image)
