"""Classifier: the parts that all classifiers have, however they are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowdet.config import PixelSettings
from flowdet.flowcls.feature_reader import pool


class Classifier(nn.Module, ABC):
    """Base class of the classifiers. Subclasses compute losses and class logits of images.

    Args:
        backbone: any detectron2 backbone.
        num_classes: C.
        pixels: normalization and channel order of the images.
    """

    # prefixes of the tensors whose shape depends on the number of classes
    class_tensors: tuple[str, ...] = ()

    def __init__(self, *, backbone: nn.Module, num_classes: int, pixels: PixelSettings):
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.input_format = pixels.format
        self.register_buffer("pixel_mean", torch.tensor(pixels.mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixels.std).view(-1, 1, 1), False)

    @abstractmethod
    def image_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of a batch, to be summed with equal weight.

        Args:
            images: normalized images, [B, 3, H, W].
            labels: class indices, [B].
        """

    @abstractmethod
    def image_logits(self, images: Tensor, all_modes: bool) -> dict[str, Tensor]:
        """Computes class logits [B, C] by the name of the inference mode.

        The configured mode is the first. With `all_modes` all other modes follow.

        Args:
            images: normalized images, [B, 3, H, W].
            all_modes: whether to compute the modes that are not configured.
        """

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Computes losses in training, and class logits otherwise.

        Args:
            batched_inputs: dicts with `image` [3, H, W] (0 to 255) and, in training, `label`.

        Returns:
            In training the losses, to be summed with equal weight. Otherwise a dict per image:
            `modes`, the names of all inference modes (the configured mode first), and `logits`,
            [number of modes, C].
        """
        if not self.training:
            return self.inference(batched_inputs)
        labels = self.labels_of(batched_inputs)
        return self.image_losses(self.images_of(batched_inputs), labels)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], all_modes: bool = True) -> list[dict]:
        """Computes the results that `forward` returns at inference.

        Without `all_modes` it leaves out modes that are not configured, see `image_logits`. It does
        not use labels.
        """
        logits = self.image_logits(self.images_of(batched_inputs), all_modes)
        modes = list(logits)
        return [
            {"logits": x, "modes": modes} for x in torch.stack(list(logits.values()), dim=1).float()
        ]

    @torch.no_grad()
    def layer_features(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Computes the features of every layer, averaged over positions, to analyze them.

        Args:
            batched_inputs: dicts with `image` [3, H, W] (0 to 255). Labels are not used.

        Returns:
            The features by the name of the layer, in order, each [B, channels].

        Raises:
            ValueError: the model is in training mode, in which batch norm would mix the images.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        outputs = self.layer_outputs(self.images_of(batched_inputs))
        return {name: pool(x).float() for name, x in outputs.items()}

    def layer_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the output of every layer by its name.

        Args:
            images: normalized images, [B, 3, H, W].

        Returns:
            Feature maps [B, c, H, W], tokens [B, N, c] or vectors [B, c]; here those of the
            backbone.
        """
        return self.backbone(images)

    def images_of(self, batched_inputs: list[dict]) -> Tensor:
        """Returns the normalized images of a batch, [B, 3, H, W].

        Raises:
            ValueError: the images differ in size.
        """
        images = [x["image"] for x in batched_inputs]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"the images of a batch must have one size, got {sorted(sizes)}: set "
                "INPUT.FIXED_SIZE"
            )
        # a single copy to the device, not one per image
        return self.normalize(torch.stack(images).to(self.device))

    def normalize(self, images: Tensor) -> Tensor:
        """Normalizes pixels from 0 to 255, [..., 3, H, W], by mean and standard deviation."""
        return (images - self.pixel_mean) / self.pixel_std

    def labels_of(self, batched_inputs: list[dict]) -> Tensor:
        """Returns the class indices of a batch, [B].

        Raises:
            ValueError: a label is outside 0 to C - 1.
        """
        labels = [int(x["label"]) for x in batched_inputs]
        for x, label in zip(batched_inputs, labels):
            if not 0 <= label < self.num_classes:
                raise ValueError(
                    f"image {x.get('image_id')} has label {label}, but the model has classes 0 to "
                    f"{self.num_classes - 1}: set MODEL.FLOW_CLS.NUM_CLASSES to 0 to take the "
                    "number from the dataset"
                )
        return torch.tensor(labels, device=self.device)
