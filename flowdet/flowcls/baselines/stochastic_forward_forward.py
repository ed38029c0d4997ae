"""StochasticForwardForwardClassifier: learning by compression of the effective dimension (SFF).

Z. Zhu, Y. Qi, H. Ma, W. Lu and J. Feng, "Stochastic Forward-Forward Learning through
Representational Dimensionality Compression", arXiv 2505.16649, 2025.

A layer gets S noisy copies of every image. The effective dimension of outputs with the covariance C
is the participation ratio of its eigenvalues lambda_i:

    ED(C) = (sum_i lambda_i)^2 / sum_i lambda_i^2 = tr(C)^2 / tr(C^2)

It is 1 if all outputs lie on a line, and the number of channels if C is a multiple of the identity.
The loss of a layer makes it small for the copies of one image (compression), and large for the
outputs of all images, averaged over their copies (diversity):

    L = a * mean_b ED(C_b) - d * ED(C)

It needs neither labels nor negative samples. A linear read-out gets the outputs of the last layer.
Its prediction is the energy, the mean of the squared outputs o_c over the copies of an image:

    logit_c = mean_s o_{c,s}^2

What the paper leaves open, and what is done here (the weights a = d = 1/2, S = 20, dropout and the
projection are those of the authors' published configuration):

- Noise: dropout of the pixel values that the first layer gets, in each color channel by itself. A
  dropped value becomes the mean of its channel in the image, whatever the normalization of the
  images. The noise reaches the other layers through their inputs.
- Covariances are second moments over copies and positions, without subtraction of the mean, as the
  outputs are not negative after a ReLU.
- Before the covariance, a fixed random orthogonal matrix projects the channels to 30, 20 and 10
  dimensions in layers 1, 2 and 3; further layers have 10.
- The authors train one layer after the other, then the read-out. Here all are trained together.
- The energy does not depend on the sign of o_c. At o_c = 0 it has no gradient, and outputs of both
  signs get the same class, so a read-out with random weights around 0 learns badly. It starts at
  o_c = 1: there the energy is linear in small changes of o_c.
- Inference draws the noise of INFERENCE_SAMPLES copies from a fixed seed, the same for every image,
  so that a prediction does not depend on the other images. With 0, there is one copy without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from flowdet.flowcls.baselines.local_classifier import (
    LayerLoss,
    LocalClassifier,
    build_local_parts,
    evaluation_mode,
)
from flowdet.flowcls.feature_reader import as_tokens


@dataclass(frozen=True)
class StochasticSettings:
    """Noise and loss of SFF.

    Attributes:
        samples: S, the number of noisy copies of a training image.
        inference_samples: number of copies at inference; 0 for one without noise.
        noise: dropout probability of the pixel values.
        compression: a, the weight of the effective dimension of one image's copies.
        diversity: d, the weight of the effective dimension of all images.
    """

    samples: int
    inference_samples: int
    noise: float
    compression: float
    diversity: float


@META_ARCH_REGISTRY.register()
class StochasticForwardForwardClassifier(LocalClassifier):
    """A classifier whose layers compress the noise and spread the images, with a linear read-out.

    Args:
        stochastic: noise and loss.
        projection_dims: dimensions of the projected outputs, from the first layer on; the last one
            is that of all further layers.
        image_size: (H, W) of the images, in pixels.
        parts: the arguments of `LocalClassifier`.
    """

    @configurable
    def __init__(
        self,
        *,
        stochastic: StochasticSettings,
        projection_dims: Sequence[int],
        image_size: Sequence[int],
        **parts,
    ):
        super().__init__(**parts)
        self.settings = stochastic
        # a constant of an exported graph, which would draw new values in every call
        self.register_buffer("kept", self._kept_at_inference(image_size), persistent=False)
        for index, shape in enumerate(self.backbone.output_shape().values()):
            dim = projection_dims[min(index, len(projection_dims) - 1)]
            matrix = torch.empty(shape.channels, min(dim, shape.channels))
            self.register_buffer(f"projection{index}", nn.init.orthogonal_(matrix))
        nn.init.zeros_(self.readout.classifier.weight)
        nn.init.ones_(self.readout.classifier.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node, parts = cfg.MODEL.SFF, build_local_parts(cfg)
        settings = StochasticSettings(
            samples=node.SAMPLES,
            inference_samples=node.INFERENCE_SAMPLES,
            noise=node.NOISE,
            compression=node.COMPRESSION_WEIGHT,
            diversity=node.DIVERSITY_WEIGHT,
        )
        return {
            **parts,
            "stochastic": settings,
            "projection_dims": node.PROJECTION_DIMS,
            "image_size": cfg.INPUT.FIXED_SIZE,
            "readout_layers": list(parts["backbone"].output_shape())[-1:],
        }

    def layer_losses(
        self, images: Tensor, labels: Tensor, logits: Tensor
    ) -> tuple[Tensor, LayerLoss]:
        """The input are S noisy copies of the batch; labels are not used."""
        return self.noisy_copies(images), self.layer_loss

    def layer_loss(self, index: int, y: Tensor) -> dict[str, Tensor]:
        """Computes the loss of a layer from its output for S copies of the batch."""
        # the sums of squares overflow in half precision
        with torch.autocast(y.device.type, enabled=False):
            tokens = as_tokens(y).float() @ getattr(self, f"projection{index}").float()
            copies = tokens.unflatten(0, (self.settings.samples, -1))
            compression, diversity = effective_dimensions(copies)
        return {
            "loss_compression": self.settings.compression * compression,
            "loss_diversity": -self.settings.diversity * diversity,
        }

    def readout_logits(self, images: Tensor) -> Tensor:
        """Computes the energy of the read-out's outputs, [B, C], over noisy copies of the images.

        In training, the noise is new in every iteration.
        """
        copies = self.noisy_copies(images)
        with torch.no_grad(), evaluation_mode(self.backbone):
            outputs = self.layer_outputs(copies)
        outputs = self.readout(self.readout_features(outputs))
        return outputs.unflatten(0, (-1, images.shape[0])).square().mean(dim=0)

    def noisy_copies(self, images: Tensor) -> Tensor:
        """Returns noisy copies of images [B, 3, H, W]: [copies * B, 3, H, W], copy by copy."""
        settings = self.settings
        if not self.training and settings.inference_samples == 0:
            return images
        mean = images.mean(dim=(2, 3), keepdim=True)
        deviation = images - mean
        if self.training:
            copies = F.dropout(deviation.repeat(settings.samples, 1, 1, 1), settings.noise)
            return copies + mean.repeat(settings.samples, 1, 1, 1)
        size, kept = images.shape[-2:], self.kept
        if kept.shape[-2:] != size:
            kept = self._kept_at_inference(size)
        return (deviation * kept.to(images) / (1 - settings.noise) + mean).flatten(0, 1)

    def _kept_at_inference(self, size: Sequence[int]) -> Tensor:
        """Draws which values of images of a size the noise keeps, bool [copies, 1, 3, H, W]."""
        shape = (self.settings.inference_samples, 1, 3, *size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)) >= self.settings.noise


def effective_dimensions(copies: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the effective dimensions of projected outputs.

    Args:
        copies: the outputs of S noisy copies of B images, [S, B, L, p], at L positions.

    Returns:
        The mean over the images of the effective dimension of their copies, and the effective
        dimension of all images, averaged over their copies.
    """
    within = torch.einsum("sblp,sblq->bpq", copies, copies)
    mean = copies.mean(dim=0)
    across = torch.einsum("blp,blq->pq", mean, mean)
    return participation_ratio(within).mean(), participation_ratio(across)


def participation_ratio(covariance: Tensor) -> Tensor:
    """Computes tr(C)^2 / tr(C^2) of symmetric matrices [..., p, p]; 0 for the zero matrix."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return trace.square() / covariance.square().sum(dim=(-2, -1)).clamp(min=1e-12)
