"""Scales images with more than 8 bits per channel, and float images, to uint8."""

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.utils.logger import log_first_n

from flowdet.config.errors import ConfigError

__all__ = ["check_value_range", "is_value_range", "scale_to_uint8"]

# the full range of a type by its NumPy kind and its size in bytes; PIL stores some 16-bit images
# with 32 bits
_FULL_RANGE = {
    **dict.fromkeys(("u2", "u4", "i4"), (0, 65535)),
    "i2": (0, 32767),
    **dict.fromkeys(("f2", "f4", "f8"), (0, 1)),
}
# an image is reported as dark if its values use at most this fraction of the full range
_DARK = 0.25


def scale_to_uint8(
    pixels: np.ndarray,
    value_range: Sequence[float] = (),
    name: str = "the image",
    full_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Scales values linearly from a range to 0..255 and rounds them; returns uint8 unchanged.

    Values are not clipped: a value outside of the range is accepted only if it rounds to 0 or 255.
    A dark image is reported by one warning per process, unless `value_range` is given.

    Args:
        pixels: an array of any shape with at least one value.
        value_range: `INPUT.VALUE_RANGE`: the two values that become 0 and 255. () is the full range
            of the pixel type: 0..65535 for integers of 16 and 32 bits, 0..32767 for signed integers
            of 16 bits, 0..1 for floats.
        name: name of the image in messages.
        full_range: the full range, if it is not that of the type of the array.

    Raises:
        ValueError: a value is outside of the range or not finite, the type has no full range, or
            `value_range` is invalid.
    """
    check_value_range(value_range)
    if pixels.dtype == np.uint8:
        return pixels
    low, high = value_range or full_range or _full_range(pixels.dtype, name)
    darkest, brightest = float(pixels.min()), float(pixels.max())
    factor = 255 / (high - low)
    if not (-0.5 <= (darkest - low) * factor and (brightest - low) * factor < 255.5):
        values = f"{darkest:g} to {brightest:g}"
        raise ValueError(_outside_message(name, values, f"{low:g} to {high:g}", bool(value_range)))
    if not value_range and darkest < brightest <= low + _DARK * (high - low):
        _warn_dark(name, brightest, high)
    scaled = np.subtract(pixels, low, dtype=np.result_type(pixels.dtype, np.float32))
    return np.clip(np.rint(scaled * factor), 0, 255).astype(np.uint8)


def check_value_range(value_range: Sequence[float]) -> None:
    """Raises ValueError if INPUT.VALUE_RANGE is invalid, see `is_value_range`."""
    if not is_value_range(value_range):
        raise ConfigError(
            f"INPUT.VALUE_RANGE is {list(value_range)}; give [lowest, highest], e.g. [0, 4095], or "
            "[] for the full range of the pixel type"
        )


def is_value_range(values: Sequence[float]) -> bool:
    """Returns whether a sequence is empty or has two finite numbers, the lower one first."""
    if not all(isinstance(x, (int, float)) and np.isfinite(x) for x in values):
        return False
    return not len(values) or len(values) == 2 and values[0] < values[1]


def _full_range(dtype: np.dtype, name: str) -> tuple[float, float]:
    key = f"{dtype.kind}{dtype.itemsize}"
    if key not in _FULL_RANGE:
        raise ValueError(
            f"{name} has pixels of type {dtype}, which have no usual range of values: set "
            "INPUT.VALUE_RANGE to [lowest, highest]"
        )
    return _FULL_RANGE[key]


def _outside_message(name: str, values: str, limits: str, is_set: bool) -> str:
    if "nan" in values or "inf" in values:
        return f"{name} has pixels that are nan or infinite: replace them by numbers in the file"
    range_name = "INPUT.VALUE_RANGE" if is_set else "the full range of its pixel type"
    return (
        f"{name} has pixels from {values}, outside of {range_name}, {limits}: set "
        "INPUT.VALUE_RANGE to [lowest, highest] of all images"
    )


def _warn_dark(name: str, brightest: float, high: float) -> None:
    log_first_n(
        logging.WARNING,
        f"{name} is dark: its brightest pixel is {brightest:g}, and {high:g} is white. If white is "
        "a smaller value in your images, set INPUT.VALUE_RANGE, e.g. to [0, 4095] for a 12-bit "
        "camera. Other dark images are not reported.",
        name=__name__,
    )
