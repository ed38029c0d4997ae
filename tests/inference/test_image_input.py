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


def test_the_alpha_channel_of_arrays_is_dropped():
    rgba = np.dstack([RGB, np.full((2, 4), 9, np.uint8)])
    np.testing.assert_array_equal(image_record(rgba)["image"], RGB)
    bgra = rgba[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(image_record(bgra, bgr=True)["image"], RGB)


@pytest.mark.parametrize(
    ("deep", "value_range"),
    [
        (RGB.astype(np.uint16) * 257, ()),
        (RGB.astype(np.uint16) * 10, [0, 2550]),
        (RGB / 255, ()),
        ((RGB / 255).astype(np.float16), ()),
        (RGB.astype(np.float32) - 5, [-5, 250]),
    ],
)
def test_deep_arrays_are_scaled_like_files(deep, value_range):
    record = image_record(deep[..., ::-1], bgr=True, value_range=value_range)
    np.testing.assert_array_equal(record["image"], RGB)
    gray = image_record(deep[..., 0], value_range=value_range)["image"]
    np.testing.assert_array_equal(gray, np.stack([RGB[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pil_images_of_all_modes_are_converted(mode):
    white = {"I;16": 65535, "I": 65535, "F": 1.0, "CMYK": (0, 0, 0, 0), "LA": (255, 9)}
    picture = Image.new(mode, (4, 2), white.get(mode, "white"))
    image = image_record(picture)["image"]
    assert image.shape == (2, 4, 3) and image.dtype == np.uint8 and (image == 255).all()


def test_pil_images_use_the_value_range():
    picture = Image.fromarray(RGB[..., 0].astype(np.uint16) * 10)
    image = image_record(picture, value_range=[0, 2550])["image"]
    np.testing.assert_array_equal(image[..., 0], RGB[..., 0])
    with pytest.raises(
        ValueError, match="image 3 has pixels from 0 to 210, .* 0 to 100: set INPUT"
    ):
        image_record(picture, 3, value_range=[0, 100])


def test_dicts_keep_their_keys():
    record = {"file_name": "x/a.jpg", "image_id": 7, "z": 1}
    assert image_record(record) == record
    assert image_record({"file_name": "x/a.jpg"})["image_id"] == "a"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (
            RGB.astype(np.float32),
            ValueError,
            "image 0 has pixels from 0 to 23, .* 0 to 1: set INPUT",
        ),
        (RGB / np.nan, ValueError, "image 0 has pixels that are nan"),
        (RGB.astype(np.int64), ValueError, "uint8 .* got int64 of shape .2, 4, 3.$"),
        (RGB > 9, ValueError, "got bool of shape .2, 4, 3.$"),
        (RGB[None], ValueError, "3 dimensions.*several images as a list"),
        (np.zeros((3, 9, 9), np.uint8), ValueError, "put the channels last"),
        (np.zeros((9, 9, 2), np.uint8), ValueError, r"must be \[H, W, 3\]"),
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
