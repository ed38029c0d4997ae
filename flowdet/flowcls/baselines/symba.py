"""SymBaClassifier: Forward-Forward learning with a symmetric loss.

H.-C. Lee and J. Song, "SymBa: Symmetric Backpropagation-Free Contrastive Learning with
Forward-Forward Algorithm for Optimizing Convergence", arXiv 2303.08418, 2023.

The two terms of the Forward-Forward loss pull in different directions and with different strength.
SymBa has one term for the difference between the goodness of a positive and of a negative sample:

    L = log(1 + exp(-alpha (G_pos - G_neg)))

No threshold is needed. The label is an intrinsic class pattern, a fixed random pattern of each
class, so that class information is not lost in the image.

What the paper leaves open, and what is done here:

- A positive sample is compared with the negative sample of the same image.
- The pattern is blended with the image, which keeps the number of input channels, and it repeats,
  so that convolutions see it at every position: see `LabelOverlay`.
- Negative labels, layer normalization, goodness and inference are those of
  `ForwardForwardClassifier`.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.flowcls.baselines.forward_forward import ForwardForwardClassifier


@META_ARCH_REGISTRY.register()
class SymBaClassifier(ForwardForwardClassifier):
    """A Forward-Forward classifier that compares the goodness of positive and negative samples.

    Args:
        alpha: factor of the difference in the loss.
        parts: the arguments of `ForwardForwardClassifier`. The threshold is not used.
    """

    @configurable
    def __init__(self, *, alpha: float, **parts):
        super().__init__(**parts)
        self.alpha = alpha

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "alpha": cfg.MODEL.FORWARD_FORWARD.SYMBA_ALPHA}

    def contrast(self, positive: Tensor, negative: Tensor, layers: int = 1) -> Tensor:
        """Computes the symmetric loss; see `ForwardForwardClassifier.contrast`."""
        return F.softplus(-self.alpha * (positive - negative)).mean()
