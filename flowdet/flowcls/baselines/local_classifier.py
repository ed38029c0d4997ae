"""LocalClassifier: base of the classifiers whose layers each learn only from their own loss.

Its own base, LayerwiseClassifier, has the layers and the read-out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from flowdet.config import pixel_settings
from flowdet.config.errors import ConfigError
from flowdet.events import log_scalars
from flowdet.flow import LocalTraining
from flowdet.flowcls.backbones import ViTBackbone
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.feature_reader import as_tokens
from flowdet.flowcls.probe import LinearProbe

READOUT_GRID = "MODEL.LOCAL_LEARNING.READOUT_GRID"

LayerLoss = Callable[[int, Tensor], dict[str, Tensor]]


class LayerwiseClassifier(Classifier):
    """Base class of the classifiers whose layers learn without gradients from other layers.

    The layers are the stages of the backbone: convolution stages of the CNN, encoder layers of the
    ViT. The input of a layer is the detached output of the layer before, so no gradient passes from
    one layer to another. A linear softmax classifier, the read-out, is trained at the same time on
    detached outputs of the layers, and passes no gradient to them.

    A subclass implements `image_losses`.

    Args:
        readout_layers: names of the layers that the read-out gets.
        readout_grid: their outputs are averaged over a grid of this many cells per side.
        readout_dropout: dropout probability of the read-out's features.
        parts: the arguments of `Classifier`. The backbone computes its layers one at a time with
            the method `stage(index, x)`.
    """

    class_tensors = ("readout.",)

    def __init__(
        self,
        *,
        readout_layers: Sequence[str],
        readout_grid: int,
        readout_dropout: float = 0.0,
        **parts,
    ):
        super().__init__(**parts)
        shapes = self.backbone.output_shape()
        self.layer_names = list(shapes)
        self.readout_layers = list(readout_layers)
        self.readout_grid = readout_grid
        channels = sum(shapes[name].channels for name in self.readout_layers)
        features = channels * readout_grid**2
        self.readout = LinearProbe(features, self.num_classes, readout_dropout)

    def layer_input(self, index: int, x: Tensor) -> Tensor:
        """Computes the input of a layer from the output of the layer before.

        Args:
            index: index of the layer; the input of layer 0 are the images.
            x: a feature map [N, c, H, W] or tokens [N, L, c].
        """
        return x

    def neutral(self, images: Tensor) -> Tensor:
        """Returns the images in the form that layers get if no label is known, [B, 3, H, W]."""
        return images

    def run_layer(self, index: int, x: Tensor) -> Tensor:
        """Computes the output of a layer; no gradient passes to its input x."""
        return self.backbone.stage(index, self.layer_input(index, x.detach()))

    def run_layers(self, x: Tensor) -> list[Tensor]:
        """Computes the outputs of all layers from the input of the first one."""
        outputs = []
        for index in range(len(self.layer_names)):
            x = self.run_layer(index, x)
            outputs.append(x)
        return outputs

    def layer_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of the layers for images without label.

        See `Classifier.layer_outputs`.
        """
        return dict(zip(self.layer_names, self.run_layers(self.neutral(images)), strict=True))

    def image_logits(self, images: Tensor, all_modes: bool) -> dict[str, Tensor]:
        """Computes the class logits of the only inference mode, `readout`."""
        return {"readout": self.readout_logits(images)}

    def readout_logits(self, images: Tensor) -> Tensor:
        """Computes the class logits of the read-out, [B, C].

        Its features are those of inference, also in training. They get no gradient.
        """
        with torch.no_grad(), evaluation_mode(self.backbone):
            outputs = self.layer_outputs(images)
        return self.readout(self.readout_features(outputs))

    def readout_features(self, outputs: dict[str, Tensor]) -> Tensor:
        """Concatenates the averages of layer outputs over the cells of the grid, [B, features]."""
        cells = [grid_means(outputs[name], self.readout_grid) for name in self.readout_layers]
        return torch.cat(cells, dim=1)


class LocalClassifier(LayerwiseClassifier):
    """Base class of the classifiers whose layers each learn from the gradient of their own loss.

    `block_local_losses` computes the gradients of one layer at a time. The trainer then calls
    `backward()` on the sum of the losses as for any other model.

    A subclass implements `layer_losses`.

    Args:
        parts: the arguments of `LayerwiseClassifier`.
    """

    def __init__(self, **parts):
        super().__init__(**parts)
        self.local = LocalTraining(len(self.layer_names), "joint", 0)

    @abstractmethod
    def layer_losses(
        self, images: Tensor, labels: Tensor, logits: Tensor
    ) -> tuple[Tensor, LayerLoss]:
        """Returns the input of the first layer for a training batch, and the loss of the layers.

        Args:
            images: normalized images, [B, 3, H, W].
            labels: class indices, [B].
            logits: class logits of the read-out, [B, C], without gradient.

        Returns:
            The input, [N, 3, H, W]: for example positive and negative samples. And a function that
            is called as `loss(k, y)` for each layer k from 0, with its output y of N samples. It
            returns the losses of the layer by name, the same names for every layer.
        """

    def image_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of the layers, summed, and the cross-entropy of the read-out."""
        logits = self.readout_logits(images)
        inputs, loss = self.layer_losses(images, labels, logits.detach())
        layers = _LayerByLayer(self, inputs, loss)
        losses = self.local.losses(layers, [], list(self.backbone.parameters()))
        log_scalars(layers.statistics)
        return losses | {"loss_readout": F.cross_entropy(logits.float(), labels)}


class _LayerByLayer:
    """The function `block_loss(k, features)` of one batch, for `block_local_losses`.

    It has no features that layers share: it passes the detached output of a layer to the next one.

    Attributes:
        statistics: the losses of every layer, for the event storage.
    """

    def __init__(self, model: LocalClassifier, inputs: Tensor, loss: LayerLoss):
        self.model = model
        self.loss = loss
        self.statistics: dict[str, Tensor] = {}
        self._x = inputs

    def __call__(self, index: int, features: Sequence[Tensor]) -> dict[str, Tensor]:
        y = self.model.run_layer(index, self._x)
        losses = self.loss(index, y)
        self._x = y.detach()
        name = self.model.layer_names[index]
        for key, value in losses.items():
            # no "loss" in the name, or detectron2 prints all of them in every line
            self.statistics[f"{name}/{key.removeprefix('loss_')}"] = value.detach()
        return losses


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Runs a module in evaluation mode; afterwards it is in its former mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def without_batch_norm_updates(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of batch norms unchanged by passes in training mode."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


def grid_means(x: Tensor, cells: int, key: str = READOUT_GRID) -> Tensor:
    """Averages layer outputs over the cells of a grid.

    Args:
        x: a feature map [B, c, H, W] or tokens [B, L, c].
        cells: number of cells per side. Tokens are averaged over `cells ** 2` runs of neighbors.
        key: the config key of this number.

    Returns:
        The means, [B, c * cells ** 2].

    Raises:
        ConfigError: the grid has more cells than the output has positions, so that several cells
            would be equal.
    """
    is_map = x.dim() == 4
    most = min(x.shape[-2:]) if is_map else math.isqrt(x.shape[1])
    if cells > most:
        size = f"{x.shape[-2]} x {x.shape[-1]} positions" if is_map else f"{x.shape[1]} tokens"
        raise ConfigError(
            f"{key} is {cells}, but must be at most {most}, because the output of a layer has only "
            f"{size}; write, for example, {key} {most}, or enlarge INPUT.FIXED_SIZE"
        )
    if is_map:
        return F.adaptive_avg_pool2d(x, cells).flatten(1)
    return F.adaptive_avg_pool1d(as_tokens(x).transpose(1, 2), cells**2).flatten(1)


def build_local_parts(cfg: CfgNode) -> dict:
    """Builds the parts of a `Classifier` and the grid of the read-out from a config.

    Raises:
        ValueError: the backbone cannot compute its layers one at a time, or a key is out of range.
    """
    check_classes(cfg)
    backbone = build_backbone(cfg)
    if not hasattr(backbone, "stage"):
        raise ValueError(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} cannot be trained layer by layer: use "
            "build_cnn_backbone or build_vit_backbone"
        )
    if isinstance(backbone, ViTBackbone):
        # `stage` does not apply it, so nothing would train it
        backbone.vit.encoder.ln = nn.Identity()
    return {
        "backbone": backbone,
        "readout_grid": cfg.MODEL.LOCAL_LEARNING.READOUT_GRID,
        "num_classes": cfg.MODEL.FLOW_CLS.NUM_CLASSES,
        "pixels": pixel_settings(cfg),
    }


def check_classes(cfg: CfgNode) -> None:
    """Checks that the config has at least two classes.

    Raises:
        ValueError: it has fewer.
    """
    num_classes = cfg.MODEL.FLOW_CLS.NUM_CLASSES
    if num_classes < 2:
        raise ValueError(
            "MODEL.FLOW_CLS.NUM_CLASSES must be at least 2 for local learning, got "
            f"{num_classes} (flowdet.engine.resolve_config takes it from the dataset)"
        )
