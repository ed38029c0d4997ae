"""What a case is, and the small pictures that all cases show."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

# height and width differ, so that exchanging them fails a test
HEIGHT, WIDTH = 48, 64
NAMES = ("square", "disc")
COLORS = ((220, 40, 40), (40, 60, 220))
BACKGROUND = (120, 160, 120)

# {split: {name of the image: [(index of the class, absolute xyxy box counted from 0), ...]}}
Content = dict[str, dict[str, list[tuple[int, tuple[float, float, float, float]]]]]

CONTENT: Content = {
    "train": {
        "train_0": [(0, (4, 10, 22, 28)), (1, (34, 3, 54, 21))],
        "train_1": [(0, (12, 2, 31, 20)), (1, (40, 26, 58, 44))],
        "train_2": [(0, (3, 24, 20, 42)), (1, (37, 15, 57, 33))],
    },
    "val": {
        "val_0": [(0, (8, 4, 26, 22)), (1, (38, 22, 56, 40))],
        "val_1": [(0, (5, 20, 23, 40)), (1, (36, 8, 55, 26))],
    },
}
ALL_IMAGES = {name: objects for split in CONTENT.values() for name, objects in split.items()}

# other names of the splits in files and folders
_SPLITS = {
    "train2017": "train", "val2017": "val", "Train": "train", "Validation": "val", "valid": "val",
}  # fmt: skip
READS, REPAIRED, STOPS = "reads", "reads with listed repairs", "stops with one line"
# the outcomes of datasets that lose nothing, and of those that may also stop
ACCEPTED, ANY = (READS, REPAIRED), (READS, REPAIRED, STOPS)


@dataclass(frozen=True)
class Case:
    """A dataset with something unusual, and what a user expects of it.

    Attributes:
        write: writes the dataset into an empty folder.
        outcomes: the outcomes that a user accepts: `READS`, `REPAIRED`, `STOPS`.
        message: a regular expression; a problem (if the dataset stops), else a repair or a remark
            matches it.
        content: the objects that are read; without the objects that are left out.
        names: the class names by the class indices in `content`.
        classes: all class names, if there are more than `names`.
        is_divided: whether the dataset has its own splits; else a fifth is held out.
        note: why it is expected.
    """

    write: Callable[[Path], None]
    outcomes: tuple[str, ...] = (READS,)
    message: str = ""
    content: Content | None = None
    names: tuple[str, ...] = NAMES
    classes: tuple[str, ...] = ()
    is_divided: bool = True
    note: str = ""

    def expected_images(self) -> dict[str, list]:
        """The objects of each image as sorted [class name, box] lists, by split, sorted."""
        content = CONTENT if self.content is None else self.content
        if not self.is_divided:
            content = {
                "all": {f"{s}/{n}": o for s, part in content.items() for n, o in part.items()}
            }
        return {
            _SPLITS.get(split, split): sorted(
                sorted([self.names[index], *map(float, box)] for index, box in objects)
                for objects in images.values()
            )
            for split, images in content.items()
        }


def picture(objects, size=(HEIGHT, WIDTH)) -> Image.Image:
    """Draws every object as a filled rectangle in the color of its class."""
    image = Image.new("RGB", (size[1], size[0]), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, (x1, y1, x2, y2) in objects:
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLORS[index % 2])
    return image


def write_picture(path: Path, objects, exif: int = 1) -> None:
    """Writes the picture of the objects; the suffix of the path gives the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encoded(tuple(objects), path.suffix.lower(), exif))


@cache
def _encoded(objects, suffix: str, exif: int) -> bytes:
    image, stream = picture(objects), io.BytesIO()
    tags = Image.Exif()
    if exif != 1:
        tags[0x0112] = exif
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[suffix]
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.save(stream, kind, exif=tags, **options) if exif != 1 else image.save(
        stream, kind, **options
    )
    return stream.getvalue()


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Writes a text file without changing its line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def replaced_first(box) -> Content:
    """The standard content; the first object of the first image of each split has another box."""
    content = copy.deepcopy(CONTENT)
    for images in content.values():
        objects = next(iter(images.values()))
        objects[0] = (objects[0][0], box)
    return content


def write_then(write, change):
    """Returns a function that writes a dataset and calls `change` with its folder."""

    def both(folder: Path) -> None:
        write(folder)
        change(folder)

    return both


FRACTIONAL: Content = {
    split: {
        name: [(index, (x1 + 0.5, y1 + 0.25, x1 + 4.0, y1 + 3.75)) for index, (x1, y1, *_) in part]
        for name, part in images.items()
    }
    for split, images in CONTENT.items()
}
WITH_TEST: Content = {**CONTENT, "test": {"test_0": [(0, (6, 6, 22, 26)), (1, (30, 9, 50, 29))]}}
HELD_OUT = "(?i)held out|hold|fifth|split"


def undivided(write, outcomes=ACCEPTED, message=HELD_OUT, **options) -> Case:
    """A dataset without splits: a seeded fifth of its images is held out."""
    return Case(write, outcomes, message, is_divided=False, **options)
