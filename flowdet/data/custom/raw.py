"""The content of an annotation file as a format's reader returns it, before it is checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Category", "ClassList", "RawImage", "RawObject", "RawSplit"]


@dataclass(slots=True)
class RawObject:
    """An object of an image.

    Attributes:
        name: the name of its class; its category id if the split has no categories (COCO).
        corners: x1, y1, x2, y2 as in the file: absolute pixels, counted from `RawSplit.origin`.
        where: the location of the object in the annotations, for messages.
        difficult: 1 if the evaluation ignores the object (VOC), else 0.
        iscrowd: 1 if the box is a crowd of objects (COCO), else 0.
        area: the area of the object in square pixels; None stands for the area of its box.
    """

    name: int | str
    corners: tuple[float, float, float, float]
    where: str
    difficult: int = 0
    iscrowd: int = 0
    area: float | None = None


@dataclass(slots=True)
class RawImage:
    """An image and its objects.

    Attributes:
        path: the image file, which exists.
        image_id: identifies the image in its split.
        where: the location of the image in the annotations, for messages.
        size: height and width in pixels as annotated; None if the annotations lack them.
        measured: whether `size` was read from the image file.
        annotated: whether there are annotations of this image. An image without objects that is
            annotated is background.
        objects: the objects.
    """

    path: Path
    image_id: int | str
    where: str
    size: tuple[int, int] | None = None
    measured: bool = False
    annotated: bool = True
    objects: list[RawObject] = field(default_factory=list)


@dataclass(frozen=True)
class Category:
    """A class as a file lists it.

    Attributes:
        name: the name of the class.
        id: the id in the file; None if it has no ids.
        supercategory: the name of its group; "" for none.
    """

    name: str
    id: int | str | None = None
    supercategory: str = ""


@dataclass
class RawSplit:
    """The content of a split.

    Attributes:
        images: the images with their objects.
        source: the path to name in a message about the whole split.
        categories: the classes by class index if the files list them. None if the classes are the
            names of the objects.
        class_source: the file or split that defines the classes, for messages.
        origin: the number of the first pixel: 0 or, in VOC files, 1. With 1, a box includes its
            last pixel.
        readable: whether the files could be read.
        names_are_ids: whether `name` of the objects is their category id, because a COCO file has
            no categories.
    """

    images: list[RawImage]
    source: Path
    categories: list[Category] | None = None
    class_source: str = ""
    origin: int = 0
    readable: bool = True
    names_are_ids: bool = False

    @property
    def annotated(self) -> bool:
        """Whether any image has annotations. A test split without any is for prediction."""
        return any(image.annotated for image in self.images)


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset by class index, and the file or split that defines them."""

    categories: tuple[Category, ...]
    source: str

    @classmethod
    def of_names(cls, names: Iterable[str], source: str) -> ClassList:
        """Returns classes without ids."""
        return cls(tuple(Category(name) for name in names), source)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    @property
    def ids(self) -> list[int | str]:
        """The category ids by class index; [] if the classes have none."""
        ids = [category.id for category in self.categories]
        return [] if None in ids else ids

    def listed(self) -> str:
        """Returns at most 12 of the names, for a message."""
        more = f", ... {len(self.names)} in all" if len(self.names) > 12 else ""
        return ", ".join(self.names[:12]) + more
