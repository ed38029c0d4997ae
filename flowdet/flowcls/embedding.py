"""Class embeddings: the targets z_1 of the flow, and class logits (3.1.1, eq. 16, 29)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ClassEmbedding(nn.Module):
    """`z_1 = W_embed[y]`, and `logits = W_cls z`.

    Args:
        num_classes: C.
        dim: embedding dimension d.
        normalize: layer-normalize the targets.
        learn_target: whether the losses train `W_embed` through the targets.
        tied: compute the logits with the targets of all classes instead of a separate `W_cls`. They
            are scaled by 1 / sqrt(d), so that they do not grow with d.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        normalize: bool = False,
        learn_target: bool = True,
        tied: bool = False,
    ):
        super().__init__()
        self.normalize = normalize
        self.learn_target = learn_target
        self.classes = nn.Embedding(num_classes, dim)
        self.classes.weight.requires_grad_(learn_target or tied)
        self.projection = None if tied else nn.Linear(dim, num_classes)

    @property
    def num_classes(self) -> int:
        return self.classes.num_embeddings

    @property
    def dim(self) -> int:
        return self.classes.embedding_dim

    def table(self) -> Tensor:
        """Returns the target of every class, [C, d]."""
        weight = self.classes.weight
        return F.layer_norm(weight, weight.shape[-1:]) if self.normalize else weight

    def targets(self, labels: Tensor) -> Tensor:
        """Returns the targets z_1 [B, d] of labels [B]."""
        targets = self.table()[labels]
        return targets if self.learn_target else targets.detach()

    def logits(self, z: Tensor) -> Tensor:
        """Computes the class logits [B, C] of embeddings [B, d]."""
        if self.projection is not None:
            return self.projection(z)
        return F.linear(z, self.table()) / self.dim**0.5
