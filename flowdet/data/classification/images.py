"""Reads and resizes the images of classification datasets; keeps them in memory if they fit.

`records` are dataset dicts as described in `flowdet.data.classification.datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from flowdet.data.image_reader import image_size, read_image

__all__ = ["ImageStore", "model_input", "read_pixels", "resize_and_crop"]

# resized images are at most this many times as long as what is kept of them
_MOST_RESIZED = 8


class ImageStore:
    """The images of a dataset, kept in memory as one tensor or read when they are used.

    If all images have the same size, batches have this size. Otherwise `resize_and_crop` resizes
    the images to `fixed_size`.

    Args:
        records: dataset dicts.
        fixed_size: height and width in pixels.
        limit: the images are kept in memory if they need at most this many bytes.
        keep_resized: whether images of different sizes may be kept in memory after resizing.
        value_range: `INPUT.VALUE_RANGE`, for files that are not 8-bit.

    Attributes:
        labels: the class index of every image.
        ids: the `image_id` of every image.
        size: height and width of batches, in pixels.

    Raises:
        OSError: an image cannot be read; the message names it. The methods raise it too.
        ValueError: an image in memory is not uint8 of shape [H, W] or [H, W, 3], or the values of a
            file are outside of `value_range`. The methods raise it too.
    """

    def __init__(
        self,
        records: list[dict],
        fixed_size: tuple[int, int],
        limit: float,
        keep_resized: bool,
        value_range: Sequence[float] = (),
    ):
        self.labels = [int(record["label"]) for record in records]
        self.ids = [record["image_id"] for record in records]
        common_size = _common_size(records)
        self.size = common_size or fixed_size
        self._records = records
        self._value_range = value_range
        self._images: Tensor | None = None
        size_in_bytes = len(records) * 3 * self.size[0] * self.size[1]
        if size_in_bytes <= limit and (common_size or keep_resized):
            self._images = self._decode_all()
            self._records = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def in_memory(self) -> bool:
        """Whether the images are kept in memory."""
        return self._images is not None

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Returns the images with the given indices at the common size, uint8 RGB [B, 3, h, w]."""
        if self._images is not None:
            return self._images[torch.as_tensor(indices)]
        return torch.stack([resize_and_crop(self.original(i), self.size) for i in indices])

    def original(self, index: int) -> Tensor:
        """Returns an image before resizing, uint8 RGB [3, H, W]. Do not change it.

        If images of different sizes are kept in memory, it returns the resized image.
        """
        return self._read(self._records[index]) if self._images is None else self._images[index]

    def _read(self, record: dict) -> Tensor:
        return read_pixels(record, self._value_range)

    def _decode_all(self) -> Tensor:
        images = torch.empty(len(self), 3, *self.size, dtype=torch.uint8)
        for image, record in zip(images, self._records):
            image.copy_(resize_and_crop(self._read(record), self.size))
        return images


def resize_and_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes images to the smallest size that covers `size`, then crops the center.

    For a square `size` the shortest edge is resized to its side. Of images that would be much
    longer than `size`, only the middle is resized: a line of 60,000 pixels would need gigabytes.

    Args:
        images: uint8 [..., 3, H, W].
        size: height h and width w of the result, in pixels.

    Returns:
        uint8 [..., 3, h, w]; `images` itself if it already has this size.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    scale = max(size[0] / height, size[1] / width)
    middle = [ceil(_MOST_RESIZED * side / scale) for side in size]
    if height > middle[0] or width > middle[1]:
        height, width = min(height, middle[0]), min(width, middle[1])
        images = center_crop(images, [height, width])
    covering = [max(round(height * scale), size[0]), max(round(width * scale), size[1])]
    return center_crop(resize(images, covering, antialias=True), list(size))


def model_input(
    records: Sequence[dict],
    size: tuple[int, int],
    channels: str,
    value_range: Sequence[float] = (),
) -> Tensor:
    """Reads images and preprocesses them in the same way as the test loader.

    Args:
        records: B dataset dicts.
        size: height h and width w, in pixels.
        channels: the order of the channels, "RGB" or "BGR".
        value_range: as in `ImageStore`.

    Returns:
        uint8 [B, 3, h, w].

    Raises:
        OSError, ValueError: as `ImageStore`.
    """
    # resized one by one, because a batch of photos of the original size may not fit into memory
    images = torch.stack([resize_and_crop(read_pixels(x, value_range), size) for x in records])
    return images.flip(1) if channels == "BGR" else images


def read_pixels(record: dict, value_range: Sequence[float] = ()) -> Tensor:
    """Returns the image of a dataset dict; a gray image gets three equal channels.

    Args:
        record: a dataset dict, with `image` or `file_name`.
        value_range: as in `ImageStore`.

    Returns:
        uint8 RGB [3, H, W].

    Raises:
        OSError, ValueError: as `ImageStore`.
    """
    if "image" not in record:
        image = read_image(record["file_name"], value_range, _name(record))
    else:
        image = _checked(record["image"], record["image_id"])
    # copied, because the arrays of decoders may be read-only
    return torch.tensor(image).permute(2, 0, 1).expand(3, -1, -1).contiguous()


def _checked(image: np.ndarray, image_id: int | str) -> np.ndarray:
    """Returns an image in memory as [H, W, 1] or [H, W, 3]."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"image {image_id} must be uint8 of shape [H, W] or [H, W, 3], got {image.dtype} of "
            f"shape {list(image.shape)}"
        )
    return image


def _name(record: dict) -> str:
    return f"{record['file_name']} (image id {record['image_id']})"


def _common_size(records: list[dict]) -> tuple[int, int] | None:
    """Returns height and width if they are the same for all images, else None."""
    first = None
    for record in records:
        if "image" in record:
            size = record["image"].shape[:2]
        else:
            size = image_size(record["file_name"], _name(record))
        first = first or size
        if size != first:
            return None
    return first
