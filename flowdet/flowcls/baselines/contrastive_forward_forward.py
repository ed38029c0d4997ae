"""ContrastiveForwardForwardClassifier: layers that learn from a supervised contrastive loss (CFF).

H. Aghagolzadeh and M. Ezoji, "Contrastive Forward-Forward: A Training Algorithm of Vision
Transformer", Neural Networks 192, 2025, arXiv 2502.00571.

Every layer makes the outputs of images of one class similar, and those of other images dissimilar.
z_i is the output of the layer for sample i, averaged over positions and scaled to length 1. The
loss is that of P. Khosla et al., "Supervised Contrastive Learning", arXiv 2004.11362 (eq. 2). P(i)
are the other samples of the batch with the label of sample i:

    s_ia = z_i . z_a
    L = mean_i -1 / |P(i)| sum_{p in P(i)} log(exp(s_ip / tau) / sum_{a != i} exp(s_ia / tau))

CFF+M has the marginal contrastive loss. A margin m is added to the similarities of samples of one
class, which are at most 1. They take the place of s_ia both above and below the fraction line:

    s_ia = min(z_i . z_a + m, 1)      if a is in P(i)

A pair whose similarity is at least 1 - m passes no gradient, so that a layer need not make samples
of one class equal. The margin decreases linearly from the first layer, MARGIN, to the last one,
MARGIN * LAST_MARGIN: the layers refine the representation step by step.

It needs no negative samples and writes no label into the images. A linear classifier, the
read-out, gets the outputs of the last layer, averaged as for z_i.

What the paper leaves open, and what is done here (temperature 0.15, margins from 0.4 to 0.1 and
the clamping at 1 are those of the authors' published code):

- The paper has two augmented views of every image. With INPUT.SECOND_VIEW, the views are twice as
  many samples with the same labels. Without augmentation, both views would be the same image;
  P(i) then are the other images of the class. A sample with an empty P(i) is left out of the mean,
  but is a negative of the others.
- Several processes do not exchange outputs: the batch of the loss is the part of one process.
- The authors train the layers first, and then the read-out, on one view and with early stopping.
  Here all are trained together, for a fixed number of iterations.
- z_i has the averages over the cells of the read-out's grid, READOUT_GRID. The ViT has one cell, as
  in the paper; the class token is one of its positions. The CNN has 4 x 4 cells: the average of a
  convolution over all positions does not contain where its features are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.flowcls.baselines.local_classifier import (
    LayerLoss,
    LocalClassifier,
    build_local_parts,
    grid_means,
)


@META_ARCH_REGISTRY.register()
class ContrastiveForwardForwardClassifier(LocalClassifier):
    """A classifier whose layers make images of one class similar, with a linear read-out.

    Args:
        temperature: tau.
        margins: m of every layer; 0 for the loss without margin.
        parts: the arguments of `LocalClassifier`.
    """

    @configurable
    def __init__(self, *, temperature: float, margins: Sequence[float], **parts):
        super().__init__(**parts)
        self.temperature = temperature
        self.margins = list(margins)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node, parts = cfg.MODEL.CFF, build_local_parts(cfg)
        names = list(parts["backbone"].output_shape())
        margins = torch.linspace(node.MARGIN, node.MARGIN * node.LAST_MARGIN, len(names))
        return {
            **parts,
            "temperature": node.TEMPERATURE,
            "margins": margins.tolist(),
            "readout_layers": names[-1:],
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Computes losses or class logits; see `Classifier.forward`.

        In training, the second views of the images, `image2`, are further samples.
        """
        if self.training:
            views = [{**x, "image": x["image2"]} for x in batched_inputs if "image2" in x]
            batched_inputs = [*batched_inputs, *views]
        return super().forward(batched_inputs)

    def layer_losses(
        self, images: Tensor, labels: Tensor, logits: Tensor
    ) -> tuple[Tensor, LayerLoss]:
        """The input are the images themselves; every layer has its own margin."""

        def loss(index: int, y: Tensor) -> dict[str, Tensor]:
            # half precision is too coarse for similarities close to 1
            with torch.autocast(y.device.type, enabled=False):
                z = grid_means(y.float(), self.readout_grid)
                value = contrastive_loss(z, labels, self.temperature, self.margins[index])
            return {"loss_contrast": value}

        return images, loss


def contrastive_loss(
    features: Tensor, labels: Tensor, temperature: float, margin: float = 0.0
) -> Tensor:
    """Computes the supervised contrastive loss, or the marginal one, of a batch.

    Args:
        features: outputs of N samples, [N, c], of any length.
        labels: class indices, [N].
        temperature: tau.
        margin: m.

    Returns:
        The loss; 0 if no two samples have the same label.
    """
    z = F.normalize(features, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    similarity = z @ z.T
    similarity = torch.where(positive, (similarity + margin).clamp(max=1), similarity)
    log_p = (similarity / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    counts = positive.sum(dim=1)
    means = log_p.masked_fill(~positive, 0).sum(dim=1) / counts.clamp(min=1)
    return -means.sum() / (counts > 0).sum().clamp(min=1)
