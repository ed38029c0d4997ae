"""What a classifier consists of, whatever trains its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowdet.flowcls.feature_reader import FeatureReader
from flowdet.flowcls.probe import LinearProbe


class Classifier(nn.Module, ABC):
    """Images in, class logits out, by every inference mode there is.

    Args:
        backbone: any detectron2 backbone.
        reader: its features as the blocks see them.
        probe: on its last stage.
        num_classes: C.
        pixel_mean, pixel_std: per channel, in the order of `input_format`.
        input_format: "RGB" or "BGR".
    """

    # what depends on the number of classes, by the start of its name
    class_tensors = ("embedding.", "projection.", "probe.")

    def __init__(
        self,
        *,
        backbone: nn.Module,
        reader: FeatureReader,
        probe: LinearProbe,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
    ):
        super().__init__()
        self.backbone = backbone
        self.reader = reader
        self.probe = probe
        self.num_classes = num_classes
        self.input_format = input_format
        self.last_stage = list(backbone.output_shape())[-1]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @abstractmethod
    def losses(self, features: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The losses of a batch, to be summed with equal weight, from the reader's features."""

    @abstractmethod
    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """Class logits [B, C] of every inference mode, the configured one first; or of that
        alone."""

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """detectron2's contract: dicts with `image` [3, H, W] (0 to 255) and, in training, `label`.

        Returns:
            In training the losses, to be summed with equal weight; else, for every image,
            `logits` [modes, C] of all inference modes, and `modes`, their names: the
            configured one first, `probe` last.
        """
        if not self.training:
            return self.inference(batched_inputs)
        labels = self.labels_of(batched_inputs)
        features = self.backbone(self.images_of(batched_inputs))
        losses = self.losses(self.reader(features), labels)
        return losses | {"loss_probe": self.probe.loss(features[self.last_stage], labels)}

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], all_modes: bool = True) -> list[dict]:
        """See `forward`; with `all_modes` off of the configured mode and the probe alone. No
        label is looked at."""
        features = self.backbone(self.images_of(batched_inputs))
        logits = self.logits_by_mode(self.reader(features), all_modes)
        logits["probe"] = self.probe(features[self.last_stage])
        modes = list(logits)
        return [
            {"logits": x, "modes": modes} for x in torch.stack(list(logits.values()), dim=1).float()
        ]

    def images_of(self, batched_inputs: list[dict]) -> Tensor:
        """The normalised images, [B, 3, H, W].

        Raises:
            ValueError: they differ in size.
        """
        images = [x["image"] for x in batched_inputs]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ValueError(f"the images of a batch must have one size, got {sorted(sizes)}")
        # one copy to the device, not one per image
        return self.normalize(torch.stack(images).to(self.device))

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels of 0 to 255, [..., 3, H, W], as the backbone takes them."""
        return (images - self.pixel_mean) / self.pixel_std

    def labels_of(self, batched_inputs: list[dict]) -> Tensor:
        """The class indices, [B].

        Raises:
            ValueError: one is outside 0 to C - 1.
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
