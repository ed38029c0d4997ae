"""The online linear probe: how well a linear classifier reads the features (eq. 31-32)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flowdet.flowcls.feature_reader import pool


class LinearProbe(nn.Module):
    """A linear classifier on the detached, pooled features of the backbone's last stage.

    It is trained beside the model and only reported: no gradient of it reaches anything else.
    Features are standardised by their running mean and variance, which keeps it linear and lets
    it follow them at the model's learning rate, whatever their scale.

    Args:
        feature_dim: channels of the features.
        num_classes: C.
    """

    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(feature_dim, affine=False)
        self.classifier = nn.Linear(feature_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of a map [B, c, H, W] or tokens [B, N, c]."""
        pooled = pool(features.detach()).to(self.classifier.weight)
        if self.training and len(pooled) == 1:
            # one image has no variance
            norm = self.norm
            return self.classifier((pooled - norm.running_mean) * norm.running_var.rsqrt())
        return self.classifier(self.norm(pooled))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy to labels [B]."""
        return F.cross_entropy(self(features).float(), labels)
