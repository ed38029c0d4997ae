"""One picture in every mode and format, all EXIF orientations, deep values, broken files."""

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import detectron2.utils.logger
import numpy as np
import PIL
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import EpsImagePlugin, Image

from flowdet.data.image_reader import exif_orientation, image_size, pil_to_rgb, read_image
from tests.data.tiff_files import write_tiff

HEIGHT, WIDTH = 40, 56
ORIENTATION = 0x112
# what makes the stored picture of an upright picture with an EXIF orientation
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def smooth_picture():
    """A smooth color picture without symmetry, so that lossy formats keep it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    channels = [40 + 3 * x, 220 - 4 * y, 30 + 2 * x + 2 * y]
    return np.stack(channels, axis=-1).astype(np.uint8)


COLOR = smooth_picture()
GRAY = COLOR[..., 2]
# 6 x 4 tiles of one color each, for formats with a palette
TILES = COLOR[::10, ::10].repeat(10, 0).repeat(10, 1)[:HEIGHT, :WIDTH]
DEEP_COLOR, DEEP_GRAY = (x.astype(np.uint16) * 257 for x in (COLOR, GRAY))
ALPHA = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))


def gray_as_rgb(gray):
    return np.stack([gray] * 3, axis=-1)


def pil(pixels, mode=None):
    image = Image.fromarray(pixels)
    return image.convert(mode) if mode else image


def with_alpha(pixels, alpha=ALPHA):
    return np.dstack([pixels, alpha.astype(pixels.dtype)])


def save(pixels, mode=None, **options):
    return lambda path: pil(pixels, mode).save(path, **options)


def save_opencv(pixels):
    """Writes RGB or RGBA of any type with OpenCV."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return lambda path: cv2.imwrite(str(path), pixels[..., order])


def tiff(pixels, **options):
    return lambda path: write_tiff(path, pixels, **options)


def palette(path):
    pil(TILES).quantize(64).save(path)


def transparent_palette(path):
    pil(TILES).quantize(64).save(path, transparency=bytes(range(64)))


def black_and_white(path):
    Image.fromarray(GRAY > 100).save(path)


def premultiplied(path):
    """RGB values multiplied by an alpha of one half."""
    write_tiff(path, np.dstack([COLOR // 2, np.full_like(GRAY, 128)]), extra_samples=[1])


def twelve_bit_pgm(path):
    path.write_bytes(
        b"P5 %d %d 4095\n" % (WIDTH, HEIGHT) + (DEEP_GRAY >> 4).astype(">u2").tobytes()
    )


# (file name, writer, expected pixels, largest difference)
EIGHT_BIT = [
    ("rgb.png", save(COLOR), COLOR, 0),
    ("rgb.bmp", save(COLOR), COLOR, 0),
    ("rgb.ppm", save(COLOR), COLOR, 0),
    ("rgb.tga", save(COLOR), COLOR, 0),
    ("rgb.tif", save(COLOR), COLOR, 0),
    ("rgb_lzw.tif", save(COLOR, compression="tiff_lzw"), COLOR, 0),
    ("rgb.webp", save(COLOR, lossless=True), COLOR, 0),
    ("rgb.jp2", save(COLOR), COLOR, 0),
    ("rgb.jpg", save(COLOR, quality=95, subsampling=0), COLOR, 4),
    ("PHOTO.JPG", save(COLOR, quality=95, subsampling=0), COLOR, 4),
    ("png_named.jpg", save(COLOR, format="PNG"), COLOR, 0),
    ("no_suffix", save(COLOR, format="PNG"), COLOR, 0),
    ("rgba.png", save(with_alpha(COLOR)), COLOR, 0),
    ("rgba.tif", save(with_alpha(COLOR)), COLOR, 0),
    ("rgbx.tif", tiff(with_alpha(COLOR), extra_samples=[0]), COLOR, 0),
    ("premultiplied.tif", premultiplied, COLOR, 2),
    ("planes.tif", tiff(COLOR, planes=True), COLOR, 0),
    ("palette.png", palette, TILES, 0),
    ("palette.gif", palette, TILES, 0),
    ("palette.tif", palette, TILES, 0),
    ("transparent_palette.png", transparent_palette, TILES, 0),
    ("cmyk.tif", save(COLOR, "CMYK"), COLOR, 0),
    ("cmyk.jpg", save(COLOR, "CMYK", quality=98, subsampling=0), COLOR, 6),
    ("ycbcr.tif", save(COLOR, "YCbCr"), COLOR, 3),
    ("lab.tif", save(COLOR, "LAB"), COLOR, 15),
    ("gray.png", save(GRAY), gray_as_rgb(GRAY), 0),
    ("gray.jpg", save(GRAY, quality=95), gray_as_rgb(GRAY), 4),
    ("gray_alpha.png", save(np.dstack([GRAY, ALPHA])), gray_as_rgb(GRAY), 0),
    ("gray_white_is_zero.tif", tiff(255 - GRAY, photometric=0), gray_as_rgb(GRAY), 0),
    ("one_bit.png", black_and_white, gray_as_rgb((GRAY > 100) * np.uint8(255)), 0),
    ("one_bit.tif", black_and_white, gray_as_rgb((GRAY > 100) * np.uint8(255)), 0),
]
# Pillow 12, the last one for Python 3.10, takes uncompressed YCbCr for RGB and refuses it
if int(PIL.__version__.split(".")[0]) < 13:
    EIGHT_BIT = [case for case in EIGHT_BIT if case[0] != "ycbcr.tif"]
DEEP = [
    ("gray16.png", save(DEEP_GRAY), gray_as_rgb(GRAY), 0),
    ("gray16.tif", save(DEEP_GRAY), gray_as_rgb(GRAY), 0),
    ("gray16_lzw.tif", save(DEEP_GRAY, compression="tiff_lzw"), gray_as_rgb(GRAY), 0),
    ("gray16.jp2", save(DEEP_GRAY), gray_as_rgb(GRAY), 0),
    ("gray16.pgm", save(DEEP_GRAY), gray_as_rgb(GRAY), 0),
    ("gray16_big_endian.tif", tiff(DEEP_GRAY.astype(">u2")), gray_as_rgb(GRAY), 0),
    ("gray16_white_is_zero.tif", tiff(65535 - DEEP_GRAY, photometric=0), gray_as_rgb(GRAY), 0),
    ("gray15_signed.tif", tiff((DEEP_GRAY >> 1).astype(np.int16)), gray_as_rgb(GRAY), 0),
    ("gray12_packed.tif", tiff(DEEP_GRAY >> 4, bits=12), gray_as_rgb(GRAY), 0),
    ("gray12.pgm", twelve_bit_pgm, gray_as_rgb(GRAY), 0),
    ("gray32.tif", save(DEEP_GRAY.astype(np.int32)), gray_as_rgb(GRAY), 0),
    ("gray32_unsigned.tif", tiff(DEEP_GRAY.astype(np.uint32)), gray_as_rgb(GRAY), 0),
    ("gray_float.tif", save((GRAY / 255).astype(np.float32)), gray_as_rgb(GRAY), 0),
    ("gray_double.tif", tiff(GRAY / 255), gray_as_rgb(GRAY), 0),
    ("double_white_is_zero.tif", tiff(1 - GRAY / 255, photometric=0), gray_as_rgb(GRAY), 0),
    ("rgb16.png", save_opencv(DEEP_COLOR), COLOR, 0),
    ("rgb16.tif", save_opencv(DEEP_COLOR), COLOR, 0),
    ("rgb16_raw.tif", tiff(DEEP_COLOR), COLOR, 0),
    ("rgb16_big_endian.tif", tiff(DEEP_COLOR.astype(">u2")), COLOR, 0),
    ("rgb12_packed.tif", tiff(DEEP_COLOR >> 4, bits=12), COLOR, 0),
    ("rgb16.ppm", save_opencv(DEEP_COLOR), COLOR, 0),
    ("rgb16.jp2", save_opencv(DEEP_COLOR), COLOR, 1),
    ("rgba16.png", save_opencv(with_alpha(DEEP_COLOR)), COLOR, 0),
    ("rgba16.tif", tiff(with_alpha(DEEP_COLOR), extra_samples=[2]), COLOR, 0),
    ("rgb15_signed.tif", tiff((DEEP_COLOR >> 1).astype(np.int16)), COLOR, 0),
    ("rgb_float.tif", save_opencv((COLOR / 255).astype(np.float32)), COLOR, 0),
    ("rgb_double.tif", tiff(COLOR / 255), COLOR, 0),
]


def names(cases):
    return [case[0] for case in cases]


@pytest.fixture(autouse=True)
def no_warning_logged_yet(monkeypatch):
    monkeypatch.setattr(detectron2.utils.logger, "_LOG_COUNTER", Counter())


def largest_difference(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.abs(a.astype(int) - b).max()


@pytest.mark.parametrize(
    ("name", "write", "expected", "tolerance"), EIGHT_BIT + DEEP, ids=names(EIGHT_BIT + DEEP)
)
def test_a_picture_has_the_same_pixels_in_every_format(tmp_path, name, write, expected, tolerance):
    write(tmp_path / name)
    assert largest_difference(read_image(tmp_path / name), expected) <= tolerance
    assert image_size(tmp_path / name) == (HEIGHT, WIDTH)
    assert exif_orientation(tmp_path / name) == 1


@pytest.mark.parametrize(("name", "write"), [case[:2] for case in EIGHT_BIT], ids=names(EIGHT_BIT))
def test_pixels_of_8_bit_files_are_those_of_detectron2(tmp_path, name, write):
    write(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = detectron2_read_image(str(tmp_path / name), "RGB")
    assert np.array_equal(read_image(tmp_path / name), expected)
    # the value range does not apply
    assert np.array_equal(read_image(tmp_path / name, [0, 9]), expected)


def in_mode(mode):
    """Returns the picture as a PIL image of a mode, in color if the mode has color."""
    if mode.startswith("I;16"):
        order = ">u2" if mode.endswith("B") else "<u2"
        return Image.frombytes(mode, (WIDTH, HEIGHT), DEEP_GRAY.astype(order).tobytes())
    special = {
        "1": lambda: Image.fromarray(GRAY > 100),
        "F": lambda: Image.fromarray((GRAY / 255).astype(np.float32)),
        "I": lambda: Image.fromarray(DEEP_GRAY.astype(np.int32)),
        "P": lambda: pil(TILES).quantize(64),
        "PA": lambda: pil(TILES).quantize(64).convert("PA"),
        "La": lambda: pil(GRAY).convert("LA").convert("La"),
    }
    return special[mode]() if mode in special else pil(GRAY if mode in "LA" else COLOR, mode)


@pytest.mark.parametrize("mode", Image.MODES)
def test_pil_images_of_every_mode_are_converted(mode):
    image = in_mode(mode)
    assert image.mode == mode
    if mode == "1":
        expected = gray_as_rgb((GRAY > 100) * np.uint8(255))
    elif mode in ("P", "PA"):
        expected = TILES
    else:
        expected = gray_as_rgb(GRAY) if mode[0] in "IFL" and mode != "LAB" else COLOR
    tolerance = {"HSV": 6, "LAB": 15, "YCbCr": 3}.get(mode, 0)
    assert largest_difference(pil_to_rgb(image), expected) <= tolerance


def png_with_chunk(pixels, kind, data, after_pixels):
    """Returns a PNG file with one more chunk, before or after its pixels."""
    file = io.BytesIO()
    pil(pixels).save(file, "PNG")
    png = file.getvalue()
    position = png.index(b"IEND" if after_pixels else b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + kind + data
    return png[:position] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + png[position:]


def exif_data(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def xmp_data(orientation):
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'
    return b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()


def write_png_exif(path, pixels, orientation, after_pixels=False):
    data = exif_data(orientation).removeprefix(b"Exif\0\0")
    path.write_bytes(png_with_chunk(pixels, b"eXIf", data, after_pixels))


def write_png_late_exif(path, pixels, orientation):
    write_png_exif(path, pixels, orientation, after_pixels=True)


def write_png_xmp(path, pixels, orientation):
    path.write_bytes(png_with_chunk(pixels, b"iTXt", xmp_data(orientation), after_pixels=False))


def write_png_late_xmp(path, pixels, orientation):
    path.write_bytes(png_with_chunk(pixels, b"iTXt", xmp_data(orientation), after_pixels=True))


def write_exif(**options):
    return lambda path, pixels, orientation: pil(pixels).save(
        path, exif=exif_data(orientation), **options
    )


def write_deep_png(path, pixels, orientation):
    deep = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    position = deep.index(b"IDAT") - 4
    data = exif_data(orientation).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    path.write_bytes(deep[:position] + chunk + deep[position:])


ORIENTED = [
    ("photo.jpg", write_exif(quality=95, subsampling=0), 4),
    ("gray.jpg", lambda p, x, o: write_exif(quality=95)(p, x[..., 2], o), 4),
    ("exif.png", write_png_exif, 0),
    ("late_exif.png", write_png_late_exif, 0),
    ("xmp.png", write_png_xmp, 0),
    ("late_xmp.png", write_png_late_xmp, 0),
    ("photo.webp", write_exif(lossless=True), 0),
    ("rgb.tif", lambda p, x, o: write_tiff(p, x, orientation=o), 0),
    ("gray.tif", lambda p, x, o: write_tiff(p, x[..., 2], orientation=o), 0),
    ("lzw.tif", write_exif(compression="tiff_lzw"), 0),
    ("gray16.tif", lambda p, x, o: write_tiff(p, x[..., 2] * np.uint16(257), orientation=o), 0),
    ("rgb16.tif", lambda p, x, o: write_tiff(p, x * np.uint16(257), orientation=o), 0),
    ("double.tif", lambda p, x, o: write_tiff(p, x / 255, orientation=o), 0),
    ("rgb16.png", write_deep_png, 0),
]


@pytest.mark.parametrize(("name", "write", "tolerance"), ORIENTED, ids=names(ORIENTED))
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_of_all_exif_orientations_are_upright(
    tmp_path, name, write, tolerance, orientation
):
    stored = pil(COLOR)
    if orientation != 1:
        stored = stored.transpose(STORED[orientation])
    write(tmp_path / name, np.asarray(stored), orientation)
    expected = gray_as_rgb(GRAY) if name.startswith("gray") else COLOR
    assert largest_difference(read_image(tmp_path / name), expected) <= tolerance
    assert image_size(tmp_path / name) == (HEIGHT, WIDTH)
    assert exif_orientation(tmp_path / name) == orientation


def test_oriented_jpegs_are_read_as_by_detectron2(tmp_path):
    for orientation in STORED:
        pil(COLOR).save(tmp_path / "a.jpg", exif=exif_data(orientation))
        expected = detectron2_read_image(str(tmp_path / "a.jpg"), "RGB")
        assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)


def test_pil_images_are_turned_upright(tmp_path):
    for orientation, operation in STORED.items():
        stored = pil(COLOR).transpose(operation) if operation is not None else pil(COLOR)
        for name, write, tolerance in ORIENTED:
            # PIL cannot open it
            if name == "double.tif":
                continue
            write(tmp_path / name, np.asarray(stored), orientation)
            expected = gray_as_rgb(GRAY) if name.startswith("gray") else COLOR
            with open(tmp_path / name, "rb") as file, Image.open(file) as image:
                assert largest_difference(pil_to_rgb(image), expected) <= tolerance
        stored.getexif()[ORIENTATION] = orientation
        assert np.array_equal(pil_to_rgb(stored), COLOR)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0nonsense that is not a TIFF header",
        b"Exif\0\0" + exif_data(6).removeprefix(b"Exif\0\0")[:14],
        exif_data(0),
        exif_data(9),
        exif_data(65535),
    ],
)
def test_broken_exif_data_do_not_matter(tmp_path, exif):
    pil(COLOR).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    pil(COLOR).save(tmp_path / "a.webp", exif=exif, lossless=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.jpg", "a.webp"):
            assert largest_difference(read_image(tmp_path / name), COLOR) <= 4
            assert exif_orientation(tmp_path / name) == 1
            assert image_size(tmp_path / name) == (HEIGHT, WIDTH)


def test_first_frame_is_read_and_told_once(tmp_path, caplog):
    frames = [pil(TILES), pil(255 - TILES)]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert largest_difference(read_image(tmp_path / name), TILES) == 0
    (record,) = caplog.records
    assert "a.gif has several frames or pages: only the first is read" in record.getMessage()


def test_preview_in_a_photo_is_not_reported(tmp_path, caplog):
    pil(COLOR).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[pil(COLOR[:8, :8])])
    assert read_image(tmp_path / "a.jpg").shape == COLOR.shape
    assert not caplog.records


READERS = [read_image, image_size, exif_orientation]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and text.count("a.img") == 1
    return text


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty$"),
        (b"<html>404 Not Found</html>", r"not an image, .* starts with '<html>404 Not Found<'\)$"),
        (b"version https://git-lfs.github.com/spec/v1", "not an image, .*'version https://git-'"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "a HEIC image, which cannot be read$"),
        (b"\0" * 99, "not an image, or its header is damaged"),
    ],
)
def test_files_that_are_no_images_give_one_line(tmp_path, read, content, reason):
    (tmp_path / "a.img").write_bytes(content)
    with pytest.raises(OSError, match=f"^cannot read image .*a.img: .*{reason}") as error:
        read(tmp_path / "a.img")
    one_line(error)


@pytest.mark.parametrize("read", READERS)
def test_missing_file_and_folder(tmp_path, read):
    with pytest.raises(OSError, match="^cannot read image .*a.img: No such file") as error:
        read(tmp_path / "a.img")
    one_line(error)
    (tmp_path / "a.img").mkdir()
    with pytest.raises(OSError, match="^cannot read image .*a.img: ") as error:
        read(tmp_path / "a.img")
    one_line(error)


def test_messages_use_the_given_name(tmp_path):
    (tmp_path / "a.img").write_bytes(b"")
    for read in READERS:
        with pytest.raises(
            OSError, match=r"^cannot read image x \(image id 3\): the file is empty$"
        ):
            read(tmp_path / "a.img", name="x (image id 3)")


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (np.zeros((4, 6, 5), np.uint16), {}, "damaged, or of a kind that is not supported"),
        (np.zeros((4, 6), np.float16), {}, "damaged, or of a kind that is not supported"),
        (DEEP_COLOR, {"planes": True}, "3 channels of 16 bits in separate planes is not supp"),
        (COLOR / 255, {"planes": True}, "3 channels of 64 bits in separate planes is not supp"),
        (DEEP_COLOR, {"photometric": 1, "extra_samples": [0, 0]}, "16 bits that are not marked as"),
        (COLOR, {"photometric": 1, "extra_samples": [0, 0]}, "8 bits that are not marked as RGB"),
        (DEEP_COLOR[..., :2], {"extra_samples": [2]}, "2 channels of 16 bits that are not marked"),
    ],
)
def test_tiff_files_of_other_kinds_give_one_line(tmp_path, pixels, options, reason):
    write_tiff(tmp_path / "a.img", pixels, **options)
    with pytest.raises(
        OSError, match=f"^cannot read image .*a.img: .*{reason}.*: convert"
    ) as error:
        read_image(tmp_path / "a.img")
    one_line(error)


@pytest.mark.parametrize("alpha", [0, 65535])
def test_alpha_is_not_compared_with_the_value_range(tmp_path, alpha):
    pixels = with_alpha(DEEP_COLOR >> 4, np.full_like(DEEP_GRAY, alpha))
    save_opencv(pixels)(tmp_path / "a.png")
    assert largest_difference(read_image(tmp_path / "a.png", [0, 4095]), COLOR) == 0


# one file of every decoder; a flipped byte in its header, or a shorter file
FRAGILE = ["rgb.png", "rgb.jpg", "rgb.webp", "rgb.bmp", "palette.gif", "rgb_lzw.tif", "rgb.jp2"]
FRAGILE += ["rgb.ppm", "rgb.tga", "gray16.png", "rgb16.png", "rgb16.tif", "gray_double.tif"]


def damaged_files(content, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield content[: rng.integers(len(content))]
        changed = bytearray(content)
        for position in rng.integers(min(len(content), 400), size=3):
            changed[position] = rng.integers(256)
        yield bytes(changed)


@pytest.mark.parametrize("name", FRAGILE)
def test_damaged_files_are_read_or_give_one_line(tmp_path, name, monkeypatch, capfd):
    # damaged headers may ask for much memory
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    write = {case[0]: case[1] for case in EIGHT_BIT + DEEP}[name]
    write(tmp_path / name)
    errors = 0
    for content in damaged_files((tmp_path / name).read_bytes(), 40):
        (tmp_path / "a.img").write_bytes(content)
        for read in READERS:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    result = read(tmp_path / "a.img")
                    assert read is not read_image or result.dtype == np.uint8
                # ValueError: a damaged value is outside of the range
                except (OSError, ValueError) as error:
                    errors += read is read_image
                    assert str(error).count("a.img") == 1 and "\n" not in str(error)
    assert errors >= 10
    # libtiff writes errors of compressed TIFF files to the standard error
    assert name in ("rgb_lzw.tif", "rgb16.tif") or not any(capfd.readouterr())


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb_lzw.tif", "rgb16.png", "rgb16.tif"])
def test_truncated_files_are_an_error(tmp_path, name):
    write = {case[0]: case[1] for case in EIGHT_BIT + DEEP}[name]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / "a.img").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(OSError, match="^cannot read image .*a.img: ") as error:
        read_image(tmp_path / "a.img")
    one_line(error)


@pytest.mark.parametrize("name", ["rgb.png", "rgb_float.tif"])
@pytest.mark.parametrize("read", READERS)
def test_too_large_files_give_one_line(tmp_path, monkeypatch, read, name):
    write = {case[0]: case[1] for case in EIGHT_BIT + DEEP}[name]
    write(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a.img")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)
    with pytest.raises(
        OSError, match=r"a.img: .*2240 pixels.* cut the image into tiles, or"
    ) as error:
        read(tmp_path / "a.img")
    one_line(error)


def iptc_field(kind, content):
    return b"\x1c" + bytes(kind) + len(content).to_bytes(2, "big") + content


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """PIL would call Ghostscript, also for PostScript in an IPTC file."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    fields = {(3, 60): b"\1\0", (3, 20): b"\0\x0a", (3, 30): b"\0\x0a", (3, 120): b"\5"}
    fields |= {(8, 10): eps, (9, 10): b""}
    iptc = b"".join(iptc_field(kind, content) for kind, content in fields.items())
    for content, reason in ((eps, "it is PostScript"), (iptc, "it is not an image")):
        (tmp_path / "a.img").write_bytes(content)
        for read in (read_image, image_size, exif_orientation):
            with pytest.raises(OSError, match=f"a.img: {reason}") as error:
                read(tmp_path / "a.img")
            one_line(error)
    assert not (tmp_path / "called").exists()
    # otherwise the test would pass because the files do nothing
    for content in (eps, iptc):
        with contextlib.suppress(OSError), Image.open(io.BytesIO(content)) as image:
            image.load()
        assert (tmp_path / "called").exists()
        (tmp_path / "called").unlink()


def test_large_files_are_read_without_a_warning(tmp_path, monkeypatch):
    pil(COLOR).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH * 2 // 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_image(tmp_path / "a.png"), COLOR)
        assert image_size(tmp_path / "a.png") == (HEIGHT, WIDTH)


def test_sizes_are_read_without_decoding(tmp_path):
    for name, write, *_ in EIGHT_BIT:
        if name.endswith((".png", ".jpg")):
            write(tmp_path / name)
            content = (tmp_path / name).read_bytes()
            # only a file with all its pixels can be decoded
            (tmp_path / "a.img").write_bytes(content[: len(content) - 40])
            assert image_size(tmp_path / "a.img") == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "pixels",
    [
        DEEP_GRAY >> 4,
        (DEEP_GRAY >> 4).astype(np.int16),
        (DEEP_GRAY >> 4).astype(np.int32),
        (DEEP_GRAY >> 4).astype(np.float32),
        DEEP_COLOR >> 4,
        (DEEP_COLOR >> 4).astype(np.float32),
    ],
)
def test_value_range_of_a_12_bit_camera(tmp_path, pixels, caplog):
    write_tiff(tmp_path / "a.tif", pixels)
    expected = COLOR if pixels.ndim == 3 else gray_as_rgb(GRAY)
    assert largest_difference(read_image(tmp_path / "a.tif", [0, 4095]), expected) == 0
    assert not caplog.records


def test_value_range_may_start_below_zero(tmp_path):
    values = GRAY.astype(np.int16) * 4 - 1000
    write_tiff(tmp_path / "a.tif", values)
    pixels = read_image(tmp_path / "a.tif", (-1000, 20))
    assert largest_difference(pixels, gray_as_rgb(GRAY)) == 0
    with pytest.raises(ValueError, match="a.tif has pixels from -880 to -128, outside of the full"):
        read_image(tmp_path / "a.tif")


def test_dark_images_are_reported_once(tmp_path, caplog):
    write_tiff(tmp_path / "a.tif", DEEP_GRAY >> 4)
    write_tiff(tmp_path / "b.tif", DEEP_COLOR >> 4)
    assert read_image(tmp_path / "a.tif").max() < 16
    read_image(tmp_path / "b.tif")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "a.tif is dark: its brightest pixel is 3" in record.getMessage()
    assert "set INPUT.VALUE_RANGE, e.g. to [0, 4095]" in record.getMessage()


def test_threads_restore_the_settings_of_the_process(tmp_path, monkeypatch):
    for name in ("first.png", "second.png"):
        pil(COLOR).save(tmp_path / name)
    first_opened, second_opened, first_done = (threading.Event() for _ in range(3))
    open_image = Image.open

    def open_in_turn(file, **options):
        """Lets the second thread open its file before the first is done, and end after it."""
        if file.name.endswith("first.png"):
            first_opened.set()
            assert second_opened.wait(10)
        else:
            second_opened.set()
            assert first_done.wait(10)
        return open_image(file, **options)

    monkeypatch.setattr(Image, "open", open_in_turn)
    filters, log_level = list(warnings.filters), cv2.utils.logging.getLogLevel()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_image, tmp_path / "first.png")
        assert first_opened.wait(10)
        second = pool.submit(read_image, tmp_path / "second.png")
        assert np.array_equal(first.result(), COLOR)
        first_done.set()
        assert np.array_equal(second.result(), COLOR)
    assert warnings.filters == filters and cv2.utils.logging.getLogLevel() == log_level


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.img")
    with pytest.raises(OSError, match=r"^cannot read image .*a.img: it is a pipe or a device") as e:
        read(tmp_path / "a.img")
    one_line(e)
