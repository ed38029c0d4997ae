"""Augments batches of images. The caller passes the random numbers that decide the augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.transforms import v2

__all__ = ["NUM_NUMBERS", "BatchAugmentation", "build_resized_crop", "crop_batch", "transform_each"]

# random numbers per image: row and column of the crop, the flip, the seed of torchvision's
# transforms, and the seed of the random resized crop
NUM_NUMBERS = 5


class BatchAugmentation:
    """The random augmentations of `INPUT` that keep the size of an image.

    The crop with CROP_PADDING and the horizontal flip are applied to the whole batch at once, then
    rotation, AutoAugment and erasing to each image.

    Raises:
        ValueError: a key of `INPUT` has an invalid value.
    """

    def __init__(self, cfg: CfgNode):
        _check(cfg)
        self._padding = cfg.INPUT.CROP_PADDING
        self._flips = cfg.INPUT.RANDOM_FLIP == "horizontal"
        self._per_image = _transforms_per_image(cfg)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Augments a batch of images. The input is not changed.

        Args:
            images: uint8 RGB [B, 3, h, w].
            numbers: random non-negative int64 [B, NUM_NUMBERS]; they decide the augmentation.

        Returns:
            uint8 RGB [B, 3, h, w].
        """
        if self._padding:
            images = crop_batch(images, self._padding, numbers[:, :2] % (2 * self._padding + 1))
        if self._flips:
            flipped = numbers[:, 2] % 2 == 1
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        if self._per_image is not None:
            images = transform_each(self._per_image, images, numbers[:, 3])
        return images


def build_resized_crop(cfg: CfgNode) -> v2.Transform | None:
    """Builds the random resized crop to INPUT.FIXED_SIZE; None if RESIZED_CROP_AREA is 0."""
    area = cfg.INPUT.RESIZED_CROP_AREA
    return v2.RandomResizedCrop(tuple(cfg.INPUT.FIXED_SIZE), scale=(area, 1)) if area else None


def crop_batch(images: Tensor, padding: int, offsets: Tensor) -> Tensor:
    """Pads images with zeros on all four sides and crops them to their original size.

    Args:
        images: [B, C, h, w].
        padding: pixels that are added on each side.
        offsets: int64 [B, 2], first row and first column of the crop in the padded image, each from
            0 to 2 * padding.

    Returns:
        [B, C, h, w].
    """
    height, width = images.shape[-2:]
    # a view of all crops, [B, C, row, column, h, w]
    crops = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


def transform_each(
    transform: Callable[[Tensor], Tensor], images: Sequence[Tensor], seeds: Tensor
) -> Tensor:
    """Transforms images one by one, with torch's CPU generator seeded for each.

    The generator is restored afterwards.

    Args:
        transform: maps an image to an image [3, h, w]; the size must be the same for all images.
        images: B images, uint8 RGB [3, H, W] each.
        seeds: int64 [B].

    Returns:
        The transformed images, [B, 3, h, w].
    """
    results = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds.tolist()):
            # torch.manual_seed would seed the GPU too, where the model draws its noise
            torch.default_generator.manual_seed(seed)
            results.append(transform(image))
    return torch.stack(results)


def _transforms_per_image(cfg: CfgNode) -> v2.Transform | None:
    """Builds the transforms that the config switches on; None if there are none."""
    transforms = []
    if cfg.INPUT.RANDOM_ROTATION:
        transforms.append(
            v2.RandomRotation(cfg.INPUT.RANDOM_ROTATION, v2.InterpolationMode.BILINEAR)
        )
    if cfg.INPUT.AUTO_AUGMENT:
        transforms.append(v2.AutoAugment(v2.AutoAugmentPolicy(cfg.INPUT.AUTO_AUGMENT)))
    if cfg.INPUT.RANDOM_ERASING:
        transforms.append(v2.RandomErasing(cfg.INPUT.RANDOM_ERASING))
    return v2.Compose(transforms) if transforms else None


def _check(cfg: CfgNode) -> None:
    """Raises ValueError if a key has an invalid value; the message names the key."""
    node = cfg.INPUT
    policies = ("", *(policy.value for policy in v2.AutoAugmentPolicy))
    for key, choices in (("RANDOM_FLIP", ("horizontal", "none")), ("AUTO_AUGMENT", policies)):
        if node[key] not in choices:
            raise ValueError(f"unknown INPUT.{key} {node[key]!r}: use one of {choices}")
    for key in ("RESIZED_CROP_AREA", "RANDOM_ERASING"):
        if not 0 <= node[key] <= 1:
            raise ValueError(f"INPUT.{key} must be from 0 to 1, got {node[key]}")
    for key in ("CROP_PADDING", "RANDOM_ROTATION"):
        if node[key] < 0:
            raise ValueError(f"INPUT.{key} must not be negative, got {node[key]}")
