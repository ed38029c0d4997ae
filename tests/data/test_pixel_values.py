"""Scaling of deep pixel values to uint8."""

from collections import Counter

import detectron2.utils.logger
import numpy as np
import pytest

from flowdet.data.pixel_values import check_value_range, scale_to_uint8

TYPES = [np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64]


@pytest.fixture(autouse=True)
def no_warning_logged_yet(monkeypatch):
    monkeypatch.setattr(detectron2.utils.logger, "_LOG_COUNTER", Counter())


def test_8_bit_values_are_unchanged():
    pixels = np.arange(256, dtype=np.uint8)
    assert scale_to_uint8(pixels, [0, 9]) is pixels


def test_all_16_bit_values_are_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16)
    expected = (values.astype(int) + 128) // 257
    for pixels in (values, values.astype(">u2"), values.astype(np.int32)):
        assert np.array_equal(scale_to_uint8(pixels), expected)
    assert np.array_equal(scale_to_uint8(values / 65535), expected)


def test_signed_16_bit_values():
    assert scale_to_uint8(np.array([0, 32767], np.int16)).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_range_is_mapped_linearly(dtype):
    values = np.array([10, 110, 59], dtype)
    assert scale_to_uint8(values, [10, 110]).tolist() == [0, 255, 125]


@pytest.mark.parametrize("dtype", TYPES)
def test_values_outside_of_the_range_are_an_error(dtype):
    for value in (9, 111):
        message = "^a.tif has pixels from .*, outside of INPUT.VALUE_RANGE, 10 to 110: set INPUT"
        with pytest.raises(ValueError, match=message):
            scale_to_uint8(np.array([50, value], dtype), [10, 110], "a.tif")


def test_the_message_has_the_values_and_the_full_range():
    message = (
        "^x has pixels from -0.25 to 0.5, outside of the full range .*, 0 to 1: set INPUT.VALUE_"
    )
    with pytest.raises(ValueError, match=message):
        scale_to_uint8(np.array([0.5, -0.25]), name="x")
    with pytest.raises(ValueError, match="from 0 to 70000, .* 0 to 65535: "):
        scale_to_uint8(np.array([0, 70000]).astype(np.int32))


def test_floats_that_round_to_black_or_white_are_accepted():
    assert scale_to_uint8(np.array([-0.001, 1.001, 0.5])).tolist() == [0, 255, 128]
    for value in (-0.003, 1.003):
        with pytest.raises(ValueError, match="set INPUT.VALUE_RANGE"):
            scale_to_uint8(np.array([0.5, value]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(value):
    for value_range in ((), (0, 9)):
        with pytest.raises(ValueError, match="^x has pixels that are nan or infinite: replace"):
            scale_to_uint8(np.array([0.5, value]), value_range, "x")


@pytest.mark.parametrize("dtype", [np.int64, np.int8, bool])
def test_types_without_a_usual_range_need_the_key(dtype):
    with pytest.raises(
        ValueError, match=f"x has pixels of type {np.dtype(dtype)}, .* set INPUT.VALU"
    ):
        scale_to_uint8(np.array([0, 1], dtype), name="x")


def test_the_full_range_of_the_file_replaces_that_of_the_type():
    values = np.array([0, 4095], np.uint16)
    assert scale_to_uint8(values, full_range=(0, 4095)).tolist() == [0, 255]
    assert scale_to_uint8(values, [0, 8190], full_range=(0, 4095)).tolist() == [0, 128]


def test_black_images_are_not_reported_as_dark(caplog):
    scale_to_uint8(np.zeros(4, np.uint16))
    scale_to_uint8(np.array([0, 20000], np.uint16))
    assert not caplog.records
    scale_to_uint8(np.array([0, 16383], np.uint16), name="x")
    assert "x is dark: its brightest pixel is 16383, and 65535 is white" in caplog.text


@pytest.mark.parametrize(
    "value_range", [[1], [0, 1, 2], [1, 1], [2, 1], [0, "9"], [0, np.nan], [0, np.inf], [None, 1]]
)
def test_invalid_ranges_name_the_key(value_range):
    with pytest.raises(ValueError, match=r"^INPUT.VALUE_RANGE is \[.*; give \[lowest, highest\]"):
        check_value_range(value_range)
    with pytest.raises(ValueError, match=r"^INPUT.VALUE_RANGE is "):
        scale_to_uint8(np.zeros(2, np.uint8), value_range)


@pytest.mark.parametrize("value_range", [[], (), [0, 4095], (-1000.5, 3000)])
def test_valid_ranges(value_range):
    assert check_value_range(value_range) is None
