"""LayerCollaborationClassifier: Forward-Forward learning in which layers know the others' goodness.

G. Lorberbom, I. Gat, Y. Adi, A. Schwing and T. Hazan, "Layer Collaboration in the Forward-Forward
Algorithm", AAAI 2024, arXiv 2305.12393.

In Forward-Forward learning every layer classifies samples alone. Here its probability also has the
goodness gamma_i of other layers, of copies f' of them whose parameters are fixed:

    p_i(positive) = sigma(||f_{1:i}(x, y)||^2 + gamma_i - theta)
    gamma_i = sum_{t != i} ||f'_{1:t}(x, y)||^2        (COLLABORATION all)
    gamma_i = sum_{t < i} ||f'_{1:t}(x, y)||^2         (COLLABORATION previous)

gamma_i is a constant: no gradient passes to the other layers. A layer whose samples are already
classified by the others has a small loss, and learns from the remaining samples. The layers are
updated together and not one after the other (Algorithm 2).

What the paper leaves open, and what is done here:

- theta is compared with a sum over several layers. It is the key THRESHOLD times the number of
  layers in the sum, so that the same value suits both methods.
- The paper updates the layers in turn, each on its own batch. Here all layers are updated on the
  same batch, with the goodness before the update.
- The sums contain the goodness of the first layer. So an image is classified by the goodness of all
  layers, and not of all but the first: the other layers have not learned what it has.
- Goodness, labels, negatives and read-out are those of `ForwardForwardClassifier`.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.flowcls.baselines.forward_forward import ForwardForwardClassifier, goodness
from flowdet.flowcls.baselines.local_classifier import LayerLoss, without_batch_norm_updates

COLLABORATIONS = ("all", "previous")


@META_ARCH_REGISTRY.register()
class LayerCollaborationClassifier(ForwardForwardClassifier):
    """A Forward-Forward classifier whose losses contain the goodness of other layers.

    Args:
        collaboration: the other layers, `all` or `previous`.
        parts: the arguments of `ForwardForwardClassifier`.

    Raises:
        ValueError: unknown collaboration.
    """

    @configurable
    def __init__(self, *, collaboration: str, **parts):
        super().__init__(**parts)
        if collaboration not in COLLABORATIONS:
            raise ValueError(
                f"unknown MODEL.FORWARD_FORWARD.COLLABORATION {collaboration!r}: use one of "
                f"{COLLABORATIONS}"
            )
        self.collaboration = collaboration

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        collaboration = cfg.MODEL.FORWARD_FORWARD.COLLABORATION
        return {**super().from_config(cfg), "collaboration": collaboration}

    def layer_losses(
        self, images: Tensor, labels: Tensor, logits: Tensor
    ) -> tuple[Tensor, LayerLoss]:
        """The losses contain the goodness of the layers before they are updated."""
        samples = self.samples(images, labels, logits)
        with torch.no_grad(), without_batch_norm_updates(self.backbone):
            fixed = torch.stack([goodness(y) for y in self.run_layers(samples)])

        def loss(index: int, y: Tensor) -> dict[str, Tensor]:
            return {"loss_goodness": self.collaborative_loss(index, goodness(y), fixed)}

        return samples, loss

    def scored_layers(self, outputs: list[Tensor]) -> list[Tensor]:
        """Returns the outputs whose goodness classifies an image: of all layers."""
        return outputs

    def collaborative_loss(self, index: int, own: Tensor, fixed: Tensor) -> Tensor:
        """Computes the loss of a layer.

        Args:
            index: index of the layer.
            own: its goodness for positive and negative samples, [2 * B].
            fixed: the goodness of all layers without gradient, [layers, 2 * B].
        """
        others = [t for t in range(len(fixed)) if t != index]
        if self.collaboration == "previous":
            others = others[:index]
        total = own + fixed[others].sum(dim=0)
        return self.contrast(*total.chunk(2), layers=1 + len(others))
