"""LinearProbe: measures how well a linear classifier works on the features (eq. 31-32)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flowdet.flowcls.feature_reader import pool


class LinearProbe(nn.Module):
    """A linear classifier on the detached, pooled features of the backbone's last stage.

    It is trained together with the model, but passes no gradient to it: it only measures the
    features. Batch norm without parameters standardizes the features, so that one learning rate
    suits features of any scale. At inference batch norm is a fixed linear map, and so is the probe.

    Args:
        feature_dim: number of channels of the features.
        num_classes: C.
        dropout: dropout probability of the standardized features.
    """

    def __init__(self, feature_dim: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(feature_dim, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(feature_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Computes class logits [B, C] from a feature map [B, c, H, W] or tokens [B, N, c]."""
        pooled = pool(features.detach()).to(self.classifier.weight)
        if self.training and len(pooled) == 1:
            # a single image has no variance, and batch norm would raise an error
            norm = self.norm
            standardized = (pooled - norm.running_mean) * norm.running_var.rsqrt()
        else:
            standardized = self.norm(pooled)
        return self.classifier(self.dropout(standardized))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Computes the cross-entropy of the logits to labels [B]."""
        return F.cross_entropy(self(features).float(), labels)
