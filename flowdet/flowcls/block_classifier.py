"""BlockClassifier: base of the classifiers with T blocks on the features of a backbone."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.feature_reader import FeatureReader
from flowdet.flowcls.probe import LinearProbe


class BlockClassifier(Classifier):
    """Base class of the classifiers whose backbone learns from the losses of their blocks.

    Args:
        reader: maps the backbone's outputs to the features that the blocks get.
        probe: a linear classifier on the last stage of the backbone.
        parts: the arguments of `Classifier`.
    """

    class_tensors = ("embedding.", "projection.", "probe.")

    def __init__(self, *, reader: FeatureReader, probe: LinearProbe, **parts):
        super().__init__(**parts)
        self.reader = reader
        self.probe = probe
        self.last_stage = list(self.backbone.output_shape())[-1]

    @abstractmethod
    def losses(self, features: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of a batch, to be summed with equal weight.

        Args:
            features: the reader's features.
            labels: class indices, [B].
        """

    @abstractmethod
    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """Computes class logits [B, C] by the name of the inference mode.

        The configured mode is the first. With `all_modes` all other modes follow.
        """

    @abstractmethod
    def block_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Computes the outputs of the blocks, [B, d] or [B, N, d], by name: `block0`, ...

        Args:
            features: the reader's features.
        """

    def image_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of the blocks and of the probe; see `Classifier.image_losses`."""
        features = self.backbone(images)
        losses = self.losses(self.reader(features), labels)
        return losses | {"loss_probe": self.probe.loss(features[self.last_stage], labels)}

    def image_logits(self, images: Tensor, all_modes: bool) -> dict[str, Tensor]:
        """Computes the class logits of the blocks and, last, of `probe`.

        See `Classifier.image_logits`.
        """
        features = self.backbone(images)
        logits = self.logits_by_mode(self.reader(features), all_modes)
        return logits | {"probe": self.probe(features[self.last_stage])}

    def layer_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of the backbone's stages and of the blocks.

        See `Classifier.layer_outputs`.
        """
        features = self.backbone(images)
        return features | self.block_outputs(self.reader(features))
