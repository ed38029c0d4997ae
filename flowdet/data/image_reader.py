"""Reads image files as uint8 RGB, for training, evaluation, dataset checks, the demo and drawing.

A picture has the same pixels whatever the format of its file:

- The image is rotated and flipped as the orientation in its EXIF data says.
- Palette, gray, black-and-white, CMYK, YCbCr and Lab images are converted to RGB.
- The alpha channel, or any other fourth channel of an RGB image, is dropped, as detectron2 and
  OpenCV do: transparent pixels have the color that the file stores for them.
- Values with more than 8 bits, and floats, are scaled from `INPUT.VALUE_RANGE` to 0..255, see
  `flowdet.data.pixel_values.scale_to_uint8`.
- A file with several frames or pages is read as its first one.

Files with 8 bits per channel have the same pixels as with detectron2's `read_image`, except TIFF
files with an orientation, which detectron2 turns twice.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image, UnidentifiedImageError

from flowdet.data.decoder_errors import one_line_errors
from flowdet.data.image_files import SPECIAL_FILE, is_special_file
from flowdet.data.pixel_values import scale_to_uint8
from flowdet.data.tiff_tags import (
    TIFF_STARTS,
    bits_per_value,
    check_decodable,
    full_range,
    is_white_zero,
    read_tags,
    tiff_orientation,
    tiff_size,
)

__all__ = ["exif_orientation", "image_size", "pil_to_rgb", "read_image"]

_ORIENTATION_TAG = 0x112
# of HEIC files, after their first 4 bytes; phones write them, sometimes with the suffix .jpg
_HEIC_STARTS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
# formats whose further frames are pictures of their own, not previews or layers
_MULTI_FRAME = ("GIF", "TIFF", "PNG", "WEBP", "AVIF")
# formats that PIL gives to another program, Ghostscript, which runs the code in them; IPTC contains
# a file of any format
_PROGRAMS = ("EPS", "IPTC")
_POSTSCRIPT_STARTS = (b"%!PS", b"\xc5\xd0\xd3\xc6")
# what turns pixels [H, W] or [H, W, C] upright, by EXIF orientation
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class _Raster(NamedTuple):
    """Decoded pixels, before their values are scaled.

    Attributes:
        pixels: [H, W], or RGB [H, W, 3], upright.
        full_range: the lowest and highest possible value; None for those of the type.
        inverted: whether the lowest value is white.
    """

    pixels: np.ndarray
    full_range: tuple[float, float] | None = None
    inverted: bool = False


def read_image(
    path: str | Path, value_range: Sequence[float] = (), name: str | None = None
) -> np.ndarray:
    """Reads an image file.

    Args:
        path: path of the file.
        value_range: `INPUT.VALUE_RANGE`; it applies to images that are not 8-bit.
        name: name of the image in messages; None takes the path.

    Returns:
        uint8 RGB [H, W, 3], upright; it may be read-only.

    Raises:
        OSError: the file is missing, broken, too large or not an image. The message is one line
            with the name and the reason.
        ValueError: a value is outside of the range, or `value_range` is invalid.
    """
    name = name or os.fspath(path)
    with _open_file(path, name) as file:
        raster = _decode(file, name)
    return _rgb(raster, value_range, name)


def pil_to_rgb(
    image: Image.Image, value_range: Sequence[float] = (), name: str = "the image"
) -> np.ndarray:
    """Converts a PIL image of any mode as `read_image` converts a file.

    `value_range`, the result and the errors are those of `read_image`.
    """
    # the image of a file is decoded when it is first used
    with one_line_errors(getattr(image, "filename", "") or name):
        raster = _pil_raster(image)
    return _rgb(raster, value_range, name)


def image_size(path: str | Path, name: str | None = None) -> tuple[int, int]:
    """Reads the height and width of an image, in pixels, without decoding it.

    They are the height and width of the upright image, as `read_image` returns it.

    Args:
        path: path of the file.
        name: name of the image in messages; None takes the path.

    Raises:
        OSError: as `read_image`, if the header is broken.
    """
    with _open_file(path, name or os.fspath(path)) as file:
        image = _open(file)
        if image is None:
            return _size_within_limit(read_tags(file))
        width, height = image.size
        # PIL's size of a TIFF is that of the upright image
        swapped = image.format != "TIFF" and _header_orientation(image, file) >= 5
        return (width, height) if swapped else (height, width)


def exif_orientation(path: str | Path, name: str | None = None) -> int:
    """Reads the EXIF orientation of an image file: 1 (upright) to 8.

    It is 1 if the file has no EXIF data or broken ones. The arguments and errors are those of
    `image_size`.
    """
    with _open_file(path, name or os.fspath(path)) as file:
        image = _open(file)
        if image is None:
            tags = read_tags(file)
            _size_within_limit(tags)
            return tiff_orientation(tags)
        return _header_orientation(image, file)


@contextmanager
def _open_file(path: str | Path, name: str) -> Iterator[BinaryIO]:
    """Opens a file for decoding. Decoders get the open file: from a path, PIL maps some TIFF files
    with an orientation to memory incorrectly."""
    with one_line_errors(name):
        if is_special_file(path):
            raise OSError(SPECIAL_FILE)
        with PathManager.open(os.fspath(path), "rb") as file:
            yield file


def _open(file: BinaryIO) -> Image.Image | None:
    """Opens an image with PIL; returns None for a TIFF that PIL cannot open, e.g. float color.

    Raises:
        OSError: the file is not an image.
    """
    # the common formats are tried first
    Image.preinit()
    Image.init()
    try:
        return Image.open(file, formats=[x for x in Image.ID if x not in _PROGRAMS])
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(20)
    if start.startswith(TIFF_STARTS):
        return None
    raise OSError(_unknown_format(start))


def _unknown_format(start: bytes) -> str:
    if not start:
        return "the file is empty"
    if start[4:12] in _HEIC_STARTS:
        return "it is a HEIC image, which cannot be read"
    if start.startswith(_POSTSCRIPT_STARTS):
        return "it is PostScript, a program, which is not run: convert it to jpg or png"
    text = start.decode("latin-1")
    return f"it is not an image, or its header is damaged (the file starts with {text!r})"


def _decode(file: BinaryIO, name: str) -> _Raster:
    image = _open(file)
    if image is None:
        return _tiff_raster(file)
    deep = _is_deep_color(image)
    # PIL decodes deep color too, because it notices files that are truncated
    raster = _pil_raster(image)
    if image.format in _MULTI_FRAME and _has_more_frames(image):
        log_first_n(
            logging.WARNING,
            f"{name} has several frames or pages: only the first is read. Other such files are not "
            "reported.",
            name=__name__,
        )
    if not deep:
        return raster
    pixels = _opencv_pixels(file)
    # OpenCV turns TIFF files, but no other file
    return _Raster(pixels if image.format == "TIFF" else _upright(pixels, _orientation(image)))


def _tiff_raster(file: BinaryIO) -> _Raster:
    """Decodes a TIFF that PIL cannot open."""
    tags = read_tags(file)
    check_decodable(tags, rgb_only=True)
    _size_within_limit(tags)
    pixels, bits = _opencv_pixels(file), bits_per_value(tags)
    if pixels.dtype == np.uint16 and bits < 16:
        # OpenCV scales values of 10, 12 and 14 bits to 16
        pixels = pixels >> (16 - bits)
    return _Raster(pixels, full_range(tags), is_white_zero(tags))


def _size_within_limit(tags: Mapping[int, Any]) -> tuple[int, int]:
    """Returns height and width of a TIFF; raises PIL's error for images that are too large."""
    height, width = tiff_size(tags)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > 2 * limit:
        raise Image.DecompressionBombError(
            f"Image size ({height * width} pixels) exceeds limit of {2 * limit} pixels"
        )
    return height, width


def _is_deep_color(image: Image.Image) -> bool:
    """Returns whether PIL would reduce a color image, not yet loaded, from 16 bits to 8."""
    if image.format not in ("PNG", "TIFF") or image.mode not in ("RGB", "RGBA") or not image.tile:
        return False
    arguments = image.tile[0][3]
    raw_mode = arguments if isinstance(arguments, str) else arguments[0]
    # only PIL converts premultiplied alpha (RGBa)
    return ";16" in raw_mode and not raw_mode.startswith("RGBa")


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return getattr(image, "is_animated", False)
    # a broken second frame
    except Exception:
        return False


def _pil_raster(image: Image.Image) -> _Raster:
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    check_decodable(tags)
    # loaded first: PIL turns TIFF files and reads the last metadata of PNG files when it loads them
    image.load()
    if image.mode != "F" and not image.mode.startswith("I"):
        return _Raster(_upright(np.asarray(_to_rgb_mode(image)), _orientation(image)))
    pixels = _upright(np.asarray(image), _orientation(image))
    return _Raster(pixels, full_range(tags) if tags else None, is_white_zero(tags))


def _to_rgb_mode(image: Image.Image) -> Image.Image:
    # modes with premultiplied alpha
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return image.convert("RGB")


def _opencv_pixels(file: BinaryIO) -> np.ndarray:
    """Decodes a file with more than 8 bits per channel: [H, W], or RGB [H, W, 3].

    Raises:
        OSError: OpenCV cannot decode the file, or reduces it to 8 bits.
    """
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype == np.uint8:
        raise OSError(
            "the file is damaged, or of a kind that is not supported: convert it to RGB or gray"
        )
    return pixels if pixels.ndim == 2 else pixels[..., 2::-1]


def _orientation(image: Image.Image) -> int:
    try:
        # not PngImageFile.getexif, which decodes the image
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG)
        return int(value) if value in _TURNS else 1
    # broken EXIF data
    except Exception:
        return 1


def _header_orientation(image: Image.Image, file: BinaryIO) -> int:
    """Returns the orientation of an image that is not yet loaded."""
    if image.format == "PNG" and _has_metadata_after_pixels(file):
        image.load()
    return _orientation(image)


def _has_metadata_after_pixels(file: BinaryIO) -> bool:
    """Returns whether a PNG file has text or EXIF data after its pixels, where some tools write
    them. The position in the file is kept."""
    position, pixels = file.tell(), False
    file.seek(8)
    try:
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            pixels |= kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(position)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(_TURNS[orientation](pixels))


def _rgb(raster: _Raster, value_range: Sequence[float], name: str) -> np.ndarray:
    """Scales pixels to uint8 and returns three channels, [H, W, 3]."""
    pixels = scale_to_uint8(raster.pixels, value_range, name, raster.full_range)
    pixels = 255 - pixels if raster.inverted else pixels
    return np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels
