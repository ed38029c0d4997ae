"""SoftHebbClassifier: Hebbian learning with soft competition, without labels and without a loss.

A. Journé, H. Garcia Rodriguez, Q. Guo and T. Moraitis, "Hebbian Deep Learning Without Feedback",
ICLR 2023, arXiv 2209.11883.

The channels k of a convolution compete at every position. With the patch x and the inverse
temperature 1 / tau, the weighted inputs and the activations are

    u_k = w_k . x
    y_k = +softmax(u / tau)_k for the channel with the largest u_k, the winner
    y_k = -softmax(u / tau)_k for all other channels (soft anti-Hebbian)

and the update is, summed over the positions and images of a batch,

    dw_k = eta_k y_k (x - u_k w_k)

It needs neither labels nor a signal from another layer. The winner's weights move towards the patch
and towards the norm 1, those of its competitors away from the patch. The learning rate of a channel
follows from the norm r_k of its weights:

    eta_k = eta |r_k - 1|^q

It is high at the start, where the norm is large, and 0 where the weights have converged. A layer is
batch norm without parameters, the convolution, the triangle activation (Coates et al. 2011), which
subtracts the mean over the channels,

    max(u_k - mean_l u_l, 0)^p

and pooling. A linear classifier with dropout gets the outputs of the last layer.

What the paper leaves open or does otherwise, and what is done here (kernel sizes, learning rates,
temperatures, powers, the initial norm, dropout and pooling are those of the authors' published
CIFAR-10 network):

- Update: it is divided by its largest absolute value in the layer, as in the authors' code. So the
  size of a step does not depend on the number of images and positions.
- Time: the convolutions learn in the first part of the training (LEARNING_FRACTION), all layers on
  the same batches. Then they are fixed, batch norm included. The paper trains them for one epoch,
  one after the other, before the classifier. Here the classifier is trained from the first
  iteration on, and continues when they are fixed.
- In this part of the training, the learning rate also decays linearly to 0. In a short training the
  norms do not reach 1, and eta_k alone would not become 0.
- The update is not a gradient, and the steps of AdamW are not proportional to what it gets. So the
  model applies the update itself, in `image_losses`. The convolutions have `requires_grad` False:
  the optimizer, weight decay and gradient clipping do not change them. They and the number of
  iterations are in the checkpoints, so that a resumed run continues exactly.
- The rule is defined for units that compete at a position, with a fixed input. The parts of a ViT's
  layer (attention, layer norm, residual connections) have no such rule: it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import Tensor, nn

from flowdet.events import log_scalars
from flowdet.flowcls.backbones import StageCNN
from flowdet.flowcls.baselines.local_classifier import LayerwiseClassifier, build_local_parts


@dataclass(frozen=True)
class HebbianSettings:
    """How one convolution learns and what follows it.

    Attributes:
        kernel_size: side of its kernel, odd.
        learning_rate: eta.
        rate_power: q, the exponent of the distance between a norm and 1.
        inverse_temperature: 1 / tau.
        power: p of the triangle activation.
        initial_norm: expected norm of a channel's initial weights.
    """

    kernel_size: int
    learning_rate: float
    rate_power: float
    inverse_temperature: float
    power: float
    initial_norm: float


class HebbianStage(nn.Module):
    """Batch norm, a convolution that learns by SoftHebb, triangle activation and pooling.

    It halves the size of its input, as a stage of `StageCNN` does.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the convolution.
        settings: how the convolution learns.
        pool: pooling with stride 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, settings: HebbianSettings, pool: nn.Module
    ):
        super().__init__()
        self.settings = settings
        self.norm = nn.BatchNorm2d(in_channels, affine=False)
        size = settings.kernel_size
        weight = torch.randn(out_channels, in_channels, size, size)
        weight *= settings.initial_norm / (in_channels * size**2) ** 0.5
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Computes the output [B, out, H / 2, W / 2] from a feature map [B, in, H, W]."""
        return self.output(F.conv2d(self.patches(x), self.weight))

    def patches(self, x: Tensor) -> Tensor:
        """Normalizes a feature map and pads it with its reflection, for all positions' patches."""
        margin = self.settings.kernel_size // 2
        return F.pad(self.norm(x), [margin] * 4, mode="reflect")

    def output(self, u: Tensor) -> Tensor:
        """Computes the output from weighted inputs [B, out, H, W]."""
        return self.pool(triangle(u, self.settings.power))

    @torch.no_grad()
    def learn(self, x: Tensor, decay: float) -> Tensor:
        """Updates the weights once, and returns the output with the weights before the update.

        Args:
            x: feature map of a training batch, [B, in, H, W].
            decay: factor of the learning rate.
        """
        # sums over all positions overflow in half precision
        with torch.autocast(x.device.type, enabled=False):
            x = self.patches(x.float())
            u = F.conv2d(x, self.weight)
            y = competition(u, self.settings.inverse_temperature)
            update = sum_over_processes(hebbian_update(x, u, y, self.weight))
            update /= update.abs().max().clamp(min=1e-30)
            rates = decay * self.settings.learning_rate * self.rate_factors()
            self.weight += rates.view(-1, 1, 1, 1) * update
        return self.output(u)

    def rate_factors(self) -> Tensor:
        """Computes |r_k - 1|^q of the norms r_k of the channels' weights, [out]."""
        return (self.norms() - 1).abs() ** self.settings.rate_power

    def norms(self) -> Tensor:
        """Computes the norms of the channels' weights, [out]."""
        return self.weight.flatten(1).norm(dim=1)


@META_ARCH_REGISTRY.register()
class SoftHebbClassifier(LayerwiseClassifier):
    """A classifier whose convolutions learn by SoftHebb, with a linear read-out.

    Args:
        layers: how each stage learns; the last one is that of all further stages.
        learning_iters: number of iterations in which the convolutions learn.
        parts: the arguments of `LayerwiseClassifier`. The stages of the backbone, a `StageCNN`, are
            replaced by `HebbianStage`s with as many channels.

    Raises:
        ValueError: the backbone is not a `StageCNN`.
    """

    @configurable
    def __init__(self, *, layers: Sequence[HebbianSettings], learning_iters: int, **parts):
        super().__init__(**parts)
        if not isinstance(self.backbone, StageCNN):
            raise ValueError(
                "SoftHebbClassifier has a learning rule for convolutions only: set "
                "MODEL.BACKBONE.NAME build_cnn_backbone"
            )
        self.learning_iters = learning_iters
        self.backbone.stages = hebbian_stages(self.backbone, layers)
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    @property
    def parameters_without_gradient(self) -> list[nn.Parameter]:
        """The parameters that are trained, but not by a gradient."""
        return [stage.weight for stage in self.backbone.stages]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node, parts = cfg.MODEL.SOFT_HEBB, build_local_parts(cfg)
        names = list(parts["backbone"].output_shape())
        layers = [
            HebbianSettings(
                kernel_size=_of_layer(node.KERNEL_SIZES, k),
                learning_rate=_of_layer(node.LEARNING_RATES, k),
                rate_power=node.RATE_POWER,
                inverse_temperature=_of_layer(node.INVERSE_TEMPERATURES, k),
                power=_of_layer(node.POWERS, k),
                initial_norm=node.INITIAL_NORM,
            )
            for k in range(len(names))
        ]
        return {
            **parts,
            "layers": layers,
            "learning_iters": round(node.LEARNING_FRACTION * cfg.SOLVER.MAX_ITER),
            "readout_layers": names[-1:],
            "readout_dropout": node.DROPOUT,
        }

    def image_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Updates the convolutions, and computes the cross-entropy of the read-out."""
        self.learn(images)
        logits = self.readout_logits(images)
        return {"loss_readout": F.cross_entropy(logits.float(), labels)}

    def learn(self, images: Tensor) -> None:
        """Updates the convolutions of all stages; does nothing once they are fixed.

        Args:
            images: normalized images, [B, 3, H, W].
        """
        iteration = int(self.iterations)
        self.iterations += 1
        if iteration >= self.learning_iters:
            return
        x = images
        for stage in self.backbone.stages:
            x = stage.learn(x, 1 - iteration / self.learning_iters)
        stages = zip(self.layer_names, self.backbone.stages, strict=True)
        log_scalars({f"{name}/weight_norm": stage.norms().mean() for name, stage in stages})


def hebbian_stages(backbone: StageCNN, layers: Sequence[HebbianSettings]) -> nn.ModuleList:
    """Builds Hebbian stages with the channels of a CNN's stages.

    The pooling is that of the paper: the maximum of 4x4 windows that overlap, and in the last stage
    the mean of 2x2 windows.
    """
    stages = nn.ModuleList()
    for stage, settings in zip(backbone.stages, layers, strict=True):
        last = len(stages) == len(layers) - 1
        pool = nn.AvgPool2d(2) if last else nn.MaxPool2d(4, stride=2, padding=1)
        convolution = stage[0]
        channels = convolution.in_channels, convolution.out_channels
        stages.append(HebbianStage(*channels, settings, pool))
    return stages


def competition(u: Tensor, inverse_temperature: float) -> Tensor:
    """Computes the activations of soft competition between channels.

    Args:
        u: weighted inputs, [B, C, H, W].
        inverse_temperature: 1 / tau.

    Returns:
        The softmax over the channels, with the sign + for the winner of a position and - for its
        other channels, [B, C, H, W].
    """
    y = (inverse_temperature * u).softmax(dim=1)
    # A CPU needs many times longer for numbers below the normal range of float32.
    y = -F.threshold(y, 1e-20, 0.0)
    winner = u.argmax(dim=1, keepdim=True)
    return y.scatter(1, winner, -y.gather(1, winner))


def hebbian_update(x: Tensor, u: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Computes the sum over positions and images of y_k (x - u_k w_k), [C, c, k, k].

    Args:
        x: padded input of the convolution, [B, c, H + k - 1, W + k - 1].
        u: weighted inputs, [B, C, H, W].
        y: activations, [B, C, H, W].
        weight: weights, [C, c, k, k].
    """
    inputs = nn.grad.conv2d_weight(x, weight.shape, y)
    return inputs - (y * u).sum(dim=(0, 2, 3)).view(-1, 1, 1, 1) * weight


def triangle(u: Tensor, power: float) -> Tensor:
    """Computes the triangle activation of weighted inputs [B, C, H, W]."""
    return F.relu(u - u.mean(dim=1, keepdim=True)) ** power


def sum_over_processes(x: Tensor) -> Tensor:
    """Sums a tensor over the processes of a distributed training, in place."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(x)
    return x


def _of_layer(values: Sequence, index: int):
    """Returns the value of a layer; the last one is that of all further layers."""
    return values[min(index, len(values) - 1)]
