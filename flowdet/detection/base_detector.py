"""BaseDetector: from images to tokens, the part that all detectors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from flowdet.config import EncoderFormat, PixelSettings
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.neck import TokenNeck
from flowdet.detection.tokens import ImageTokens


class BaseDetector(nn.Module, ABC):
    """Base class of all detectors: normalization of images, backbone, feature cache and neck.

    Args:
        backbone: any detectron2 backbone.
        in_features: names of the backbone's feature maps that the neck gets.
        neck: maps feature maps to image tokens.
        pixels: normalization and channel order of the images.
        feature_cache: caches the features of a frozen backbone; None for no cache.
        encoder_format: how backbone and neck compute at inference; None for float32. It is not
            used with a feature cache, whose features training uses too.

    Raises:
        ValueError: a feature cache for a backbone that is not frozen.
    """

    # prefixes of the tensors whose shape depends on the number of classes
    class_tensors: tuple[str, ...] = ()
    # prefixes of the tensors that only training uses
    training_tensors: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        neck: TokenNeck,
        pixels: PixelSettings,
        feature_cache: FeatureCache | None = None,
        encoder_format: EncoderFormat | None = None,
    ):
        super().__init__()
        if feature_cache:
            FeatureCache.check(backbone)
        self.backbone = backbone
        self.in_features = list(in_features)
        self.neck = neck
        self.input_format = pixels.format
        self.feature_cache = feature_cache
        self.encoder_format = encoder_format or EncoderFormat()
        self.register_buffer("pixel_mean", torch.tensor(pixels.mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixels.std).view(-1, 1, 1), False)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.feature_cache:
            self.feature_cache.clear()

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @abstractmethod
    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Computes losses in training, and detections otherwise, as detectron2's detectors do.

        Args:
            batched_inputs: dicts with `image` [C, H, W] (0 to 255). In training they also have
                `instances`, otherwise optionally the `height` and `width` of the original image.

        Returns:
            In training the losses, to be summed with equal weight. Otherwise a dict
            `{"instances": Instances}` per image, with `pred_boxes` (absolute xyxy in the original
            image), `scores` and `pred_classes`, by descending score.
        """

    def encode(self, batched_inputs: list[dict]) -> ImageTokens:
        """Computes the tokens of images, which are padded to one size.

        Inference puts only images of equal size into a batch (see `group_by_size`), so that the
        result of an image does not depend on the other images.
        """
        return self.encode_images(self.preprocess(batched_inputs))

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalizes images and pads them to one size."""
        return self.pad([self.normalize(x["image"].to(self.device)) for x in batched_inputs])

    def encode_images(self, images: ImageList) -> ImageTokens:
        """Computes the tokens of preprocessed images; at inference in the `EncoderFormat`."""
        if self.training or self.feature_cache:
            return self._encode(images)
        if self.encoder_format.channels_last:
            pixels = images.tensor.contiguous(memory_format=torch.channels_last)
            images = ImageList(pixels, images.image_sizes)
        if not self.encoder_format.bfloat16:
            return self._encode(images)
        with torch.autocast(self.device.type, torch.bfloat16):
            tokens = self._encode(images)
        return tokens.with_tokens(tokens.tokens.float())

    def _encode(self, images: ImageList) -> ImageTokens:
        cache = self.feature_cache
        features = cache(self.backbone, images.tensor) if cache else self.backbone(images.tensor)
        return self.to_tokens(features, images.image_sizes, tuple(images.tensor.shape[-2:]))

    def normalize(self, images: Tensor) -> Tensor:
        """Normalizes pixels from 0 to 255, [..., C, H, W], by mean and standard deviation."""
        return (images - self.pixel_mean) / self.pixel_std

    def pad(self, images: list[Tensor]) -> ImageList:
        """Pads images [C, H, W] of any sizes to one size that the backbone supports."""
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def to_tokens(
        self,
        features: dict[str, Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
    ) -> ImageTokens:
        """Maps the backbone's feature maps to tokens; for the sizes see `TokenNeck.forward`."""
        return self.neck([features[name] for name in self.in_features], image_sizes, padded_size)


def original_size(batched_input: dict) -> tuple[int, int]:
    """Returns (height, width) of the original image. Its pixels are the unit of predicted boxes."""
    height, width = batched_input["image"].shape[-2:]
    return batched_input.get("height", height), batched_input.get("width", width)


def group_by_size(batched_inputs: Sequence[dict]) -> list[list[int]]:
    """Returns the indices of the images, grouped by image size."""
    groups: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(batched_inputs):
        groups.setdefault(x["image"].shape, []).append(i)
    return list(groups.values())
