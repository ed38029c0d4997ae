"""Reading the images of classification datasets, and keeping them in memory where they fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

__all__ = ["ImageStore", "fit", "model_input", "read"]

_EXIF_ORIENTATION = 0x112


class ImageStore:
    """The images of a list of dicts: all in one tensor, or read when they are asked for.

    All come at one size: their own if they share it, else `fixed_size` (see `fit`).

    Args:
        records: dicts as in `flowdet.data.classification.datasets`.
        fixed_size: height and width.
        limit: bytes that the tensor may take.
        keep_resized: whether images that do not share a size may be kept, resized.

    Raises:
        OSError: an image cannot be read; the message names it. So do all methods.
        ValueError: an image is not uint8 of shape [H, W] or [H, W, 3].
    """

    def __init__(
        self, records: list[dict], fixed_size: tuple[int, int], limit: float, keep_resized: bool
    ):
        self.labels = [int(record["label"]) for record in records]
        self.ids = [record["image_id"] for record in records]
        own_size = _common_size(records)
        self.size = own_size or fixed_size
        self._records = records
        self._images: Tensor | None = None
        size_in_bytes = len(records) * 3 * self.size[0] * self.size[1]
        if size_in_bytes <= limit and (own_size or keep_resized):
            self._images = self._decode_all()
            self._records = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def in_memory(self) -> bool:
        return self._images is not None

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images at the common size, uint8 RGB [B, 3, h, w]."""
        if self._images is not None:
            return self._images[torch.as_tensor(indices)]
        return torch.stack([fit(self.original(i), self.size) for i in indices])

    def original(self, index: int) -> Tensor:
        """An image as it was read, uint8 RGB [3, H, W]; not to be changed.

        Of images that are kept resized, the resized one.
        """
        return read(self._records[index]) if self._images is None else self._images[index]

    def _decode_all(self) -> Tensor:
        images = torch.empty(len(self), 3, *self.size, dtype=torch.uint8)
        for image, record in zip(images, self._records):
            image.copy_(fit(read(record), self.size))
        return images


def fit(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [..., 3, H, W] at the given height and width: resized until they just cover it
    (a square: the shortest edge is resized to its side), then cropped at the centre."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    scale = max(size[0] / height, size[1] / width)
    covering = [max(round(height * scale), size[0]), max(round(width * scale), size[1])]
    return center_crop(resize(images, covering, antialias=True), list(size))


def model_input(records: Sequence[dict], size: tuple[int, int], channels: str) -> Tensor:
    """The images of dicts as the test loader gives them: uint8 [B, 3, h, w] of `size`, in the
    order "RGB" or "BGR".

    Raises:
        OSError, ValueError: as `ImageStore`.
    """
    # resized one by one: a batch of photographs in their own size may not fit into memory
    images = torch.stack([fit(read(record), size) for record in records])
    return images.flip(1) if channels == "BGR" else images


def read(record: dict) -> Tensor:
    """The image of a dict, uint8 RGB [3, H, W]; grey ones get three equal channels.

    Raises:
        OSError, ValueError: as `ImageStore`.
    """
    image = record["image"] if "image" in record else _read_file(record)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"image {record['image_id']} must be uint8 of shape [H, W] or [H, W, 3], got "
            f"{image.dtype} of shape {list(image.shape)}"
        )
    # copied, as arrays of PIL are read-only
    return torch.tensor(image).permute(2, 0, 1).expand(3, -1, -1).contiguous()


def _read_file(record: dict) -> np.ndarray:
    try:
        return read_image(record["file_name"], "RGB")
    # PIL reports some broken files as SyntaxError
    except (OSError, SyntaxError) as error:
        raise _unreadable(record, error) from error


def _unreadable(record: dict, error: Exception) -> OSError:
    where = f"{record['file_name']} (image id {record['image_id']})"
    return OSError(f"cannot read image {where}: {error}")


def _common_size(records: list[dict]) -> tuple[int, int] | None:
    """Height and width that all images share, or None."""
    first = None
    for record in records:
        size = record["image"].shape[:2] if "image" in record else _file_size(record)
        first = first or size
        if size != first:
            return None
    return first


def _file_size(record: dict) -> tuple[int, int]:
    """Height and width by the header of a file, turned as `read_image` turns it."""
    try:
        with Image.open(record["file_name"]) as image:
            width, height = image.size
            return (width, height) if _is_turned(image) else (height, width)
    except (OSError, SyntaxError) as error:
        raise _unreadable(record, error) from error


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF data swap the sides of an image."""
    # asked for what a header does not hold, PIL would decode the image
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(_EXIF_ORIENTATION) in (5, 6, 7, 8)
    # broken in any way: read_image takes the image as it is, too
    except Exception:
        return False
