"""ForwardForwardClassifier: the Forward-Forward algorithm.

G. Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345, 2022.

Every layer distinguishes positive samples (an image with its label) from negative samples (an image
with a wrong label) by its goodness, the squared activities y_j of its units:

    p(positive) = sigma(sum_j y_j^2 - theta)                                              (eq. 1)

Its loss is -log p(positive) of the positive samples and -log(1 - p(positive)) of the negative ones.
A layer gets the output of the layer before divided by its length, so that the goodness of one layer
cannot be the goodness of the next (section 2.1). The label is written into the image (section 3.3).
Two ways to classify an image (section 3.3):

- goodness: the layers run once for every label; the label with the highest goodness, summed over
  all layers but the first, wins.
- read-out: the layers run once, with a neutral label; a softmax classifier gets the outputs of all
  layers but the first. It can also select hard negatives (HARD_NEGATIVES): a wrong label is drawn
  with the probability that the read-out gives it.

What the paper leaves open, and what is done here:

- The paper has fully connected and locally connected layers; here the layers are convolution stages
  or encoder layers. The goodness is the mean of the squares over channels and positions, not their
  sum, so that one theta suits layers of every size. SCALE multiplies it and theta in the loss. The
  length is that of all activities of a sample; after the division the mean square is 1.
- All layers are trained together, each on the same batch.
- The paper mentions peer normalization against units that are never active. It is left out: the
  CNN has batch norm.
- A convolution with shared weights does not see a label in the corner at most positions, and an
  encoder layer must first learn to attend to it. By default labels are therefore patterns that each
  position sees, as in SymBa. LABEL pixels is that of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.flowcls.baselines.label_overlay import LabelOverlay
from flowdet.flowcls.baselines.local_classifier import (
    LayerLoss,
    LocalClassifier,
    build_local_parts,
)

INFERENCES = ("goodness", "readout")


@dataclass(frozen=True)
class GoodnessSettings:
    """How goodness is trained and used.

    Attributes:
        threshold: theta.
        scale: factor of the goodness and of theta in the loss.
        hard_negatives: whether wrong labels are drawn with the probabilities of the read-out.
            Otherwise all wrong labels are equally probable.
        inference: configured inference mode, `goodness` or `readout`.

    Raises:
        ValueError: unknown inference mode.
    """

    threshold: float
    scale: float
    hard_negatives: bool
    inference: str

    def __post_init__(self):
        if self.inference not in INFERENCES:
            raise ValueError(
                f"unknown MODEL.FORWARD_FORWARD.INFERENCE {self.inference!r}: use one of "
                f"{INFERENCES}"
            )


@META_ARCH_REGISTRY.register()
class ForwardForwardClassifier(LocalClassifier):
    """A classifier whose layers learn a high goodness of images with their own label.

    Args:
        overlay: writes labels into images.
        goodness: how goodness is trained and used.
        parts: the arguments of `LocalClassifier`.
    """

    class_tensors = ("readout.", "overlay.")

    @configurable
    def __init__(self, *, overlay: LabelOverlay, goodness: GoodnessSettings, **parts):
        super().__init__(**parts)
        self.overlay = overlay
        self.settings = goodness

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node, parts = cfg.MODEL.FORWARD_FORWARD, build_local_parts(cfg)
        names = list(parts["backbone"].output_shape())
        overlay = LabelOverlay(
            node.LABEL,
            parts["num_classes"],
            node.PATTERN_STRENGTH,
            node.PATTERN_SIZE,
            parts["pixels"],
        )
        settings = GoodnessSettings(node.THRESHOLD, node.SCALE, node.HARD_NEGATIVES, node.INFERENCE)
        # all but the first, unless there is only one
        return {
            **parts,
            "overlay": overlay,
            "goodness": settings,
            "readout_layers": names[1:] or names,
        }

    def layer_input(self, index: int, x: Tensor) -> Tensor:
        return x if index == 0 else unit_length(x)

    def neutral(self, images: Tensor) -> Tensor:
        return self.overlay(images)

    def layer_losses(
        self, images: Tensor, labels: Tensor, logits: Tensor
    ) -> tuple[Tensor, LayerLoss]:
        """The input is a positive sample of every image, then a negative one of every image."""
        return self.samples(images, labels, logits), self.layer_loss

    def samples(self, images: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Returns the positive and the negative samples, [2 * B, 3, H, W].

        Args:
            images, labels, logits: see `LocalClassifier.layer_losses`.
        """
        wrong = wrong_labels(labels, logits, self.settings.hard_negatives)
        return torch.cat([self.overlay(images, labels), self.overlay(images, wrong)])

    def layer_loss(self, index: int, y: Tensor) -> dict[str, Tensor]:
        """Computes the loss of a layer from its output y for positive and negative samples."""
        return {"loss_goodness": self.contrast(*goodness(y).chunk(2))}

    def contrast(self, positive: Tensor, negative: Tensor, layers: int = 1) -> Tensor:
        """Computes the loss of eq. 1 from the goodness of both kinds of samples.

        Args:
            positive, negative: the goodness, summed over some layers, each [B].
            layers: number of these layers.
        """
        theta, scale = layers * self.settings.threshold, self.settings.scale
        loss = F.softplus(scale * (theta - positive)) + F.softplus(scale * (negative - theta))
        return loss.mean()

    def image_logits(self, images: Tensor, all_modes: bool) -> dict[str, Tensor]:
        """Computes the class logits of the inference modes `goodness` and `readout`."""
        modes = {
            "goodness": partial(self.label_goodness, images),
            "readout": partial(self.readout_logits, images),
        }
        first = self.settings.inference
        names = [first, *(name for name in modes if name != first and all_modes)]
        return {name: modes[name]() for name in names}

    def label_goodness(self, images: Tensor) -> Tensor:
        """Computes the goodness of every label, summed over the layers, [B, C]."""
        labels = torch.arange(self.num_classes, device=images.device)
        totals = []
        for label in labels:
            outputs = self.run_layers(self.overlay(images, label.expand(images.shape[0])))
            scored = self.scored_layers(outputs)
            totals.append(torch.stack([goodness(y) for y in scored]).sum(dim=0))
        return torch.stack(totals, dim=1)

    def scored_layers(self, outputs: list[Tensor]) -> list[Tensor]:
        """Returns the outputs whose goodness classifies an image: of all layers but the first."""
        return outputs[1:] or outputs


def goodness(y: Tensor) -> Tensor:
    """Computes the mean square over all units of each sample, [N], of outputs [N, ...]."""
    return y.float().flatten(1).square().mean(dim=1)


def unit_length(x: Tensor) -> Tensor:
    """Scales every sample of outputs [N, ...] to the mean square 1; zeros stay zeros."""
    scale = goodness(x).clamp(min=1e-12).rsqrt()
    return x * scale.view(-1, *[1] * (x.dim() - 1)).to(x)


def wrong_labels(labels: Tensor, logits: Tensor, hard: bool) -> Tensor:
    """Draws a label for every image that differs from its own.

    Args:
        labels: class indices, [B].
        logits: class logits of the read-out, [B, C].
        hard: whether to draw with the probabilities of the logits. Otherwise all wrong labels are
            equally probable.

    Returns:
        Class indices, [B].
    """
    logits = logits.float() if hard else torch.zeros_like(logits, dtype=torch.float)
    own = F.one_hot(labels, logits.shape[1]).bool()
    return torch.multinomial(logits.masked_fill(own, -torch.inf).softmax(dim=1), 1)[:, 0]
