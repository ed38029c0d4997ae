"""Cases of the inputs of the demo: images in many forms, broken files, videos."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from struct import pack

import numpy as np
from PIL import Image

from tests.videos import write_gray_video, write_video

SIZE = (48, 64)
# pixels of an image are multiples of 4, so that a palette and 16 bits store them exactly
_LEVELS = 4


@dataclass(frozen=True)
class InputCase:
    """An input of the demo, and what a user expects.

    Attributes:
        write: writes the files into an empty folder.
        kind: "images" for a folder of images, "video" for videos.
        status: the exit status, by name of the input for videos.
        message: a regular expression that the output matches.
        equal: groups of files that show the same picture, as the beginning of their names.
        done: the number of images with detections.
    """

    write: Callable[[Path], None]
    kind: str = "images"
    status: int = 0
    message: str = ""
    equal: tuple[str, ...] = ()
    done: int | None = None


def gray_blocks(size=SIZE) -> np.ndarray:
    """Blocks of 8 pixels, uint8 [H, W] with black and white, the same for every call."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256 // _LEVELS, (size[0] // 8, size[1] // 8)) * _LEVELS
    blocks[0, :2] = 0, 255
    return np.kron(blocks, np.ones((8, 8), dtype=int)).astype(np.uint8)


def color_blocks(size=SIZE) -> np.ndarray:
    """Blocks of 8 pixels of few colors, uint8 [H, W, 3]."""
    index = gray_blocks(size).astype(int)
    return np.stack([index, (3 * index) % 256, 255 - index], axis=-1).astype(np.uint8)


def write_modes(folder: Path) -> None:
    """A colored picture (color_*) and a gray one (gray_*) in many modes and formats."""
    gray, color = Image.fromarray(gray_blocks()), Image.fromarray(color_blocks())
    opaque = Image.new("L", color.size, 255)
    color.save(folder / "color_rgb.png")
    Image.merge("RGBA", (*color.split(), opaque)).save(folder / "color_rgba.png")
    color.quantize(256, dither=Image.Dither.NONE).save(folder / "color_palette.png")
    color.save(folder / "color_webp.webp", lossless=True)
    color.save(folder / "color_bmp.bmp")
    color.save(folder / "color_tiff.tif")
    color.save(folder / "color_png_called.jpg", "PNG")
    color.save(folder / "color_UPPER.PNG")
    gray.convert("RGB").save(folder / "gray_rgb.png")
    gray.save(folder / "gray_8bit.png")
    Image.merge("LA", (gray, opaque)).save(folder / "gray_alpha.png")
    wide = gray_blocks().astype(np.uint16) * 257
    Image.fromarray(wide).save(folder / "gray_16bit.png")
    Image.fromarray(wide).save(folder / "gray_16bit_tiff.tif")
    Image.fromarray((gray_blocks() / 255).astype(np.float32)).save(folder / "gray_float.tif")


def write_exif(folder: Path) -> None:
    """One upright picture, stored with each orientation of EXIF."""
    upright = color_blocks()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        tags = Image.Exif()
        tags[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(folder / f"exif_{orientation}.png", exif=tags)


def write_beside_a_good_image(folder: Path, data: bytes) -> None:
    Image.fromarray(color_blocks()).save(folder / "a_good.jpg")
    (folder / "b_bad.jpg").write_bytes(data)
    Image.fromarray(color_blocks()).save(folder / "c_good.png")


def half_jpeg(folder: Path) -> None:
    """A JPEG file with half of its pixels; noise, as a flat picture is complete in few bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b_bad.jpg")
    data = (folder / "b_bad.jpg").read_bytes()
    write_beside_a_good_image(folder, data[: len(data) // 2])


def write_heic(folder: Path) -> None:
    Image.fromarray(color_blocks()).save(folder / "a.jpg")
    (folder / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (folder / "notes.txt").write_text("x")
    (folder / "._a.jpg").write_bytes(b"\0\5\26\7Mac OS X")


def write_large(folder: Path, size=(20000, 10000)) -> None:
    """A PNG file of width x height black pixels with one bit each, written without an image."""
    line = b"\0" + bytes((size[0] + 7) // 8)
    deflate = zlib.compressobj(1)
    data = b"".join([*(deflate.compress(line) for _ in range(size[1])), deflate.flush()])
    chunks = [(b"IHDR", pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    parts = [
        pack(">I", len(content)) + name + content + pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    (folder / "scene.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_video_without_frames(folder: Path) -> None:
    write_gray_video(folder / "none.avi", count=1)
    data = (folder / "none.avi").read_bytes()
    # the header without the frames
    (folder / "none.avi").write_bytes(data[: data.index(b"movi") + 4])
    (folder / "text.mp4").write_text("no video at all")
    (folder / "empty.mp4").write_bytes(b"")


def write_half_video(folder: Path) -> None:
    """Half of a file; noise, as the frames must be larger than the header."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(10)]
    write_video(folder / "half.avi", frames)
    data = (folder / "half.avi").read_bytes()
    (folder / "half.avi").write_bytes(data[: len(data) // 2])


def write_videos(folder: Path, names, count: int, size=SIZE) -> None:
    for name in names:
        write_gray_video(folder / name, count, size=size)


INPUT_CASES: dict[str, InputCase] = {
    "images_modes": InputCase(write_modes, equal=("color", "gray"), done=14),
    "images_exif": InputCase(write_exif, equal=("exif",), done=8),
    "image_empty": InputCase(
        partial(write_beside_a_good_image, data=b""), status=1, message="b_bad.jpg", done=2
    ),
    "image_html": InputCase(
        partial(write_beside_a_good_image, data=b"<html><body>404 Not Found</body></html>"),
        status=1,
        message="b_bad.jpg",
        done=2,
    ),  # fmt: skip
    "image_lfs_pointer": InputCase(
        partial(write_beside_a_good_image, data=b"version https://git-lfs.github.com/spec/v1\n"),
        status=1,
        message="b_bad.jpg",
        done=2,
    ),  # fmt: skip
    "image_truncated": InputCase(half_jpeg, status=1, message="b_bad.jpg", done=2),
    "demo_folder_with_heic": InputCase(write_heic, message=r"IMG_0001\.HEIC", done=1),
    "images_bomb": InputCase(write_large, status=1, message=r"scene\.png.*(tiles|scale)", done=0),
    "video_no_frames": InputCase(write_video_without_frames, "video", 1),
    "video_half": InputCase(write_half_video, "video"),
    "video_one_frame": InputCase(
        partial(write_videos, names=("one.avi", "one.mp4"), count=1), "video", done=1
    ),
    "video_odd_size": InputCase(
        partial(write_videos, names=("odd.avi", "odd.mp4"), count=4, size=(47, 63)), "video", done=4
    ),
}
