"""Maps a dataset dict to an input of a detector: reads, resizes and augments one image."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from flowdet.config.errors import ConfigError
from flowdet.data.image_reader import read_image
from flowdet.data.pixel_values import check_value_range

__all__ = ["FlowDatasetMapper"]


class FlowDatasetMapper(DatasetMapper):
    """detectron2's mapper with flowdet's image reader, a fixed input size and more augmentation.

    Images are read by `flowdet.data.image_reader`. `INPUT.FIXED_SIZE` (height, width) replaces the
    resizing of the shortest edge; (0, 0) is off. Segmentation maps and proposals are not read.

    Args:
        is_train: whether to augment images and to return instances.
        image_format: order of the channels, "RGB" or "BGR".
        value_range: `INPUT.VALUE_RANGE`.
        settings: the other arguments of detectron2's mapper.

    Raises:
        ValueError: a key of `INPUT` has an invalid value.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        image_format: str,
        value_range: Sequence[float] = (),
        **settings: Any,
    ):
        if image_format not in ("RGB", "BGR"):
            raise ConfigError(f"INPUT.FORMAT is {image_format!r}; give RGB or BGR")
        check_value_range(value_range)
        super().__init__(is_train, image_format=image_format, **settings)
        self.value_range = tuple(value_range)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        _check_input_keys(cfg)
        settings = super().from_config(cfg, is_train)
        settings["value_range"] = cfg.INPUT.VALUE_RANGE
        resize = _fixed_size_augmentations(cfg, is_train)
        if resize:
            settings["augmentations"] = [
                new
                for aug in settings["augmentations"]
                for new in (resize if isinstance(aug, T.ResizeShortestEdge) else [aug])
            ]
        if is_train:
            settings["augmentations"] += _color_augmentations(cfg.INPUT.COLOR_JITTER)
        return settings

    def __call__(self, dataset_dict: dict) -> dict:
        """Reads the image of a dataset dict, resizes it and, in training, augments it.

        Args:
            dataset_dict: a dict in detectron2's format; it is not changed.

        Returns:
            A copy with "image", uint8 [3, H, W] with channels in `INPUT.FORMAT`, and without
            "annotations". In training also "instances", with boxes as absolute xyxy in pixels of
            the mapped image; boxes that the augmentation left empty are dropped. In evaluation also
            "value_range", if `INPUT.VALUE_RANGE` is set, with which the image can be read again.

        Raises:
            OSError: the image cannot be read; the message names the file and the image id.
            ValueError: the size of the image differs from the annotated size, or its values are
                outside of the range; the message names the file and the image id.
        """
        where = f"{dataset_dict['file_name']} (image id {dataset_dict.get('image_id')})"
        record = copy.deepcopy(dataset_dict)
        pixels = read_image(record["file_name"], self.value_range, where)
        try:
            check_image_size(record, pixels)
        except SizeMismatchError as error:
            raise ValueError(f"wrong size in the annotation of {where}: {error}") from error
        record["image"], transforms = self._transform_image(pixels, where)
        if not self.is_train:
            record.pop("annotations", None)
            return {**record, "value_range": self.value_range} if self.value_range else record
        if "annotations" in record:
            self._transform_annotations(record, transforms, tuple(record["image"].shape[1:]))
        return record

    def map_pixels(self, pixels: np.ndarray) -> dict:
        """Maps an image in memory, as `__call__` maps the image of a file.

        Args:
            pixels: uint8 RGB [H, W, 3].

        Returns:
            A dict with "image", uint8 [3, h, w] with channels in `INPUT.FORMAT`, and "height" and
            "width", the H and W of the given image.
        """
        image, _ = self._transform_image(pixels, "the image")
        return {"image": image, "height": pixels.shape[0], "width": pixels.shape[1]}

    def _transform_image(
        self, pixels: np.ndarray, where: str
    ) -> tuple[torch.Tensor, T.TransformList]:
        """Resizes and augments uint8 RGB [H, W, 3]; returns uint8 [3, h, w] with channels in
        `INPUT.FORMAT`, and the transforms that were applied."""
        image = T.AugInput(pixels[..., ::-1] if self.image_format == "BGR" else pixels)
        try:
            transforms = self.augmentations(image)
        # such as a side that would have less than one pixel
        except ValueError as error:
            height, width = pixels.shape[:2]
            raise ValueError(
                f"{where} of {width}x{height} pixels cannot be resized ({error}): leave it out, or "
                "set INPUT.FIXED_SIZE"
            ) from error
        return torch.as_tensor(np.ascontiguousarray(image.image.transpose(2, 0, 1))), transforms


def _fixed_size_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Returns the augmentations that resize an image to INPUT.FIXED_SIZE; [] if the key is off."""
    height, width = cfg.INPUT.FIXED_SIZE
    if not height:
        return []
    low, high = cfg.INPUT.SCALE_JITTER
    resize: list[T.Augmentation] = [T.Resize((height, width))]
    if is_train and (low, high) != (1, 1):
        # resized first, so that objects have the same aspect ratio as in evaluation
        resize += [T.ResizeScale(low, high, height, width), T.FixedSizeCrop((height, width))]
    return resize


def _color_augmentations(strength: float) -> list[T.Augmentation]:
    if not strength:
        return []
    kinds = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
    return [kind(1 - strength, 1 + strength) for kind in kinds]


def _check_input_keys(cfg: CfgNode) -> None:
    """Raises ValueError if a key has an invalid value; the message names the key."""
    size, scale, color = cfg.INPUT.FIXED_SIZE, cfg.INPUT.SCALE_JITTER, cfg.INPUT.COLOR_JITTER
    flip = cfg.INPUT.RANDOM_FLIP
    if len(size) != 2 or not (all(s > 0 for s in size) or all(s == 0 for s in size)):
        raise ConfigError(f"INPUT.FIXED_SIZE is {size}; give (height, width), or (0, 0) for off")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ConfigError(f"INPUT.SCALE_JITTER is {scale}; give (min, max) with 0 < min <= max")
    if tuple(scale) != (1, 1) and not size[0]:
        raise ConfigError(
            f"INPUT.SCALE_JITTER is {scale}, which needs INPUT.FIXED_SIZE: set that too, or set "
            "INPUT.SCALE_JITTER to (1.0, 1.0) for off"
        )
    if not 0 <= color < 1:
        raise ConfigError(f"INPUT.COLOR_JITTER is {color}; it must be in [0, 1)")
    if flip not in ("horizontal", "vertical", "none"):
        raise ConfigError(f"INPUT.RANDOM_FLIP is {flip!r}; give horizontal, vertical or none")
