"""The tags of TIFF files, which say what PIL and OpenCV do not: the full range of values, and
whether a file has a form that they decode incorrectly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

__all__ = [
    "TIFF_STARTS",
    "bits_per_value",
    "check_decodable",
    "full_range",
    "is_white_zero",
    "read_tags",
    "tiff_orientation",
    "tiff_size",
]

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG_TIFF = b"+"
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 262, 274
_SAMPLES, _PLANES, _SAMPLE_FORMAT = 277, 284, 339
_SIGNED, _FLOAT = 2, 3
_WHITE_IS_ZERO, _RGB = 0, 2
_INTERLEAVED = 1


def read_tags(file: BinaryIO) -> Mapping[int, Any]:
    """Reads the tags of the first page of an open TIFF file."""
    file.seek(0)
    header = file.read(8)
    if _BIG_TIFF in header[2:4]:
        header += file.read(8)
    tags = ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def tiff_size(tags: Mapping[int, Any]) -> tuple[int, int]:
    """Returns the height and width of the upright image."""
    size = tags[_HEIGHT], tags[_WIDTH]
    return size[::-1] if tiff_orientation(tags) >= 5 else size


def tiff_orientation(tags: Mapping[int, Any]) -> int:
    """Returns the orientation as in EXIF data, 1 to 8."""
    orientation = tags.get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def bits_per_value(tags: Mapping[int, Any]) -> int:
    """Returns the number of bits of a value in the file."""
    return tags.get(_BITS, (1,))[0]


def full_range(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """Returns the full range of integers of at most 16 bits; None for other values."""
    kind = tags.get(_SAMPLE_FORMAT, (1,))[0]
    bits = bits_per_value(tags)
    if kind == _FLOAT or bits > 16:
        return None
    return 0, 2 ** (bits - (kind == _SIGNED)) - 1


def is_white_zero(tags: Mapping[int, Any]) -> bool:
    """Returns whether the value 0 is white."""
    return tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def check_decodable(tags: Mapping[int, Any], rgb_only: bool = False) -> None:
    """Raises OSError for a file with more than 8 bits that would be decoded incorrectly.

    PIL and OpenCV decode separate color planes incorrectly. With `rgb_only`, files with several
    channels must be marked as RGB: OpenCV converts others, such as the bands of a satellite, to
    gray.
    """
    channels, bits = tags.get(_SAMPLES, 1), bits_per_value(tags)
    if channels == 1 or bits <= 8 and not rgb_only:
        return
    separate = tags.get(_PLANES, _INTERLEAVED) != _INTERLEAVED
    if separate or rgb_only and tags.get(_PHOTOMETRIC) != _RGB:
        form = "in separate planes" if separate else "that are not marked as RGB"
        raise OSError(
            f"a TIFF with {channels} channels of {bits} bits {form} is not supported: convert it "
            "to gray, or to RGB with interleaved channels"
        )
