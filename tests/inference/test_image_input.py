"""What may be given as an image, and what is said of the rest."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowdet.inference.image_input import image_record

RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_paths_are_left_to_be_read():
    expected = {"file_name": "x/a.jpg", "image_id": "a"}
    assert image_record("x/a.jpg") == image_record(Path("x/a.jpg")) == expected


def test_arrays_are_rgb_unless_said_otherwise():
    record = image_record(RGB, 3)
    assert record["image_id"] == 3 and record["file_name"] == "image 3"
    np.testing.assert_array_equal(record["image"], RGB)
    np.testing.assert_array_equal(image_record(RGB[..., ::-1], bgr=True)["image"], RGB)


@pytest.mark.parametrize("grey", [RGB[..., 0], RGB[..., :1]])
def test_grey_arrays_get_three_channels(grey):
    image = image_record(grey, bgr=True)["image"]
    np.testing.assert_array_equal(image, np.stack([RGB[..., 0]] * 3, axis=-1))


def test_pil_images_are_turned_and_never_bgr():
    picture = Image.fromarray(RGB)
    np.testing.assert_array_equal(image_record(picture, bgr=True)["image"], RGB)
    picture.getexif()[0x0112] = 6
    assert image_record(picture)["image"].shape == (4, 2, 3)
    assert image_record(Image.new("L", (4, 2)))["image"].shape == (2, 4, 3)


def test_dicts_keep_what_they_have():
    assert image_record({"file_name": "x/a.jpg", "image_id": 7, "z": 1})["image_id"] == 7
    assert image_record({"file_name": "x/a.jpg"})["image_id"] == "a"


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (RGB / 255, ValueError, "uint8 .* got float64 of shape .2, 4, 3.: multiply"),
        (RGB.astype(np.int64), ValueError, "got int64 of shape .2, 4, 3.$"),
        (RGB[None], ValueError, "3 dimensions.*several as a list"),
        (np.zeros((3, 9, 9), np.uint8), ValueError, "put the channels last"),
        (np.zeros((9, 9, 4), np.uint8), ValueError, "alpha channel"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, r"must be \[H, W, 3\]"),
        (np.zeros(9, np.uint8), ValueError, r"must be \[H, W, 3\]"),
        (None, TypeError, "not a NoneType"),
        ((x for x in [RGB]), TypeError, "not a generator"),
        ({"image_id": 1}, ValueError, "file_name"),
    ],
)
def test_what_is_no_image(image, error, said):
    with pytest.raises(error, match=said):
        image_record(image)
