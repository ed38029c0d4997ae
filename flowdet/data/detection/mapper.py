"""From a dataset dict to what a detector takes: reading, resizing and augmenting one image."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError

__all__ = ["FlowDatasetMapper"]


class FlowDatasetMapper(DatasetMapper):
    """detectron2's mapper with a fixed input size, scale jitter and colour jitter.

    Takes a dataset dict and returns it with "image", a uint8 tensor [3, H, W] in
    `cfg.INPUT.FORMAT`, and in training "instances" (absolute xyxy boxes in that image; those
    that augmentation left empty are dropped). In evaluation no annotation is passed on.

    `INPUT.FIXED_SIZE` (height, width) replaces the resizing of the shortest edge; (0, 0) is
    off. Calling it raises OSError when the image cannot be read, ValueError when its size is
    not the annotated one; both name the file and the image id.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        _check_input_keys(cfg)
        settings = super().from_config(cfg, is_train)
        resize = _fixed_size_augmentations(cfg, is_train)
        if resize:
            settings["augmentations"] = [
                new
                for aug in settings["augmentations"]
                for new in (resize if isinstance(aug, T.ResizeShortestEdge) else [aug])
            ]
        if is_train:
            settings["augmentations"] += _colour_augmentations(cfg.INPUT.COLOR_JITTER)
        return settings

    def __call__(self, dataset_dict: dict) -> dict:
        where = f"{dataset_dict['file_name']} (image id {dataset_dict.get('image_id')})"
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise ValueError(f"Annotation and image disagree for {where}: {error}") from error
        # PIL reports some broken files as SyntaxError.
        except (OSError, SyntaxError) as error:
            raise OSError(f"Cannot read image {where}: {error}") from error

    def of_pixels(self, pixels: np.ndarray) -> dict:
        """`image`, `height` and `width` of an image in memory, as a call gives them of a file.

        Args:
            pixels: uint8 RGB [H, W, 3].
        """
        ordered = pixels[..., ::-1] if self.image_format == "BGR" else pixels
        resized = T.AugInput(ordered)
        self.augmentations(resized)
        image = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": image, "height": pixels.shape[0], "width": pixels.shape[1]}


def _fixed_size_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """What brings an image to INPUT.FIXED_SIZE; empty when that is off."""
    height, width = cfg.INPUT.FIXED_SIZE
    if not height:
        return []
    low, high = cfg.INPUT.SCALE_JITTER
    resize: list[T.Augmentation] = [T.Resize((height, width))]
    if is_train and (low, high) != (1, 1):
        # Resized first, so that objects have the same aspect as in evaluation.
        resize += [T.ResizeScale(low, high, height, width), T.FixedSizeCrop((height, width))]
    return resize


def _colour_augmentations(strength: float) -> list[T.Augmentation]:
    if not strength:
        return []
    kinds = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
    return [kind(1 - strength, 1 + strength) for kind in kinds]


def _check_input_keys(cfg: CfgNode) -> None:
    """Raise ValueError that names the key for an impossible INPUT setting."""
    size, scale, colour = cfg.INPUT.FIXED_SIZE, cfg.INPUT.SCALE_JITTER, cfg.INPUT.COLOR_JITTER
    flip = cfg.INPUT.RANDOM_FLIP
    if len(size) != 2 or not (all(s > 0 for s in size) or all(s == 0 for s in size)):
        raise ValueError(f"INPUT.FIXED_SIZE is {size}; give (height, width), or (0, 0) for off.")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"INPUT.SCALE_JITTER is {scale}; give (min, max) with 0 < min <= max.")
    if tuple(scale) != (1, 1) and not size[0]:
        raise ValueError("INPUT.SCALE_JITTER needs INPUT.FIXED_SIZE; set it, or (1.0, 1.0) here.")
    if not 0 <= colour < 1:
        raise ValueError(f"INPUT.COLOR_JITTER is {colour}; it must be in [0, 1).")
    if flip not in ("horizontal", "vertical", "none"):
        raise ValueError(f"INPUT.RANDOM_FLIP is {flip!r}; give horizontal, vertical or none.")
