"""NoPropClassifier: blocks that each learn to denoise the embedding of the label (NoProp).

Q. Li, Y. W. Teh and R. Pascanu, "NoProp: Training Neural Networks without Full Back-propagation or
Full Forward-propagation", arXiv 2503.24322, 2025.

u_y in R^d is the embedding of class y: a one-hot vector with d = C, or a row of a learned matrix. A
block gets an image x and a noisy embedding z, and predicts u_y. In training, no block needs the
output of another block. At inference z starts from Gaussian noise.

Discrete time, `dt`: T blocks and a noise schedule 0 = abar_0 < ... < abar_T < 1.

    q(z_t | y) = N(sqrt(abar_t) u_y, (1 - abar_t) I)              SNR(t) = abar_t / (1 - abar_t)
    L_t = eta / 2 * (SNR(t) - SNR(t-1)) * |uhat_t(z_{t-1}, x) - u_y|^2,     z_{t-1} ~ q(z_{t-1} | y)
    L_class = -log p(y | z_T),                                              z_T ~ q(z_T | y)

The paper has the expectation over t of T * L_t; here every iteration trains all blocks, which is
the same sum. p(y | z) is a linear layer with softmax, the read-out. Inference:

    z_0 ~ N(0, I)            z_t = a_t uhat_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) noise
    a_t = sqrt(abar_t) (1 - r_t) / (1 - abar_{t-1})               r_t = abar_{t-1} / abar_t
    b_t = sqrt(r_t) (1 - abar_t) / (1 - abar_{t-1})
    c_t = (1 - abar_t) (1 - r_t) / (1 - abar_{t-1})

Continuous time, `ct`: one network uhat(z_t, x, t) and a learned monotone schedule
SNR(t) = exp(-gamma(t)), 0 <= t <= 1.

    L = eta / 2 * SNR'(t) * |uhat(z_t, x, t) - u_y|^2 + L_class + KL(q(z_0 | y) || N(0, I))

with uniform t, and z_1 in L_class. Inference integrates the probability flow ODE from t = 0.

In both, a block computes a softmax over the classes, and uhat is the mean of the embeddings with
these probabilities.

Flow matching, `fm`: one network v(z_t, x, t), on the line z_t = (1 - t) z_0 + t z_1 from noise z_0
to z_1 = u_y. The second term is the anchor loss, which keeps learned embeddings apart.

    L = |v(z_t, x, t) - (z_1 - z_0)|^2 - log p(y | z_t + (1 - t) v(z_t, x, t))

What the paper leaves open, and what is done here:

- Every block of `dt` has its own copy of the backbone, as the image network of a block in the
  paper, so blocks share nothing but embedding and read-out. L_t passes no gradient to these two:
  L_class alone trains them. In `ct` and `fm`, with a single network, all losses train them.
- The last stage of the backbone, averaged over a grid, and z (in `ct` and `fm` also an embedding of
  t) are each mapped to HIDDEN_DIM numbers. These are concatenated for two fully connected layers.
- abar_t of `dt` is a cosine, 0 at t = 0: q(z_0 | y) is N(0, I), and the paper's KL term is 0.
- gamma of `ct` is a sum of increasing functions with positive weights, rescaled to the fixed range
  LOG_SNR. An ODE step keeps uhat constant, and is exact for it.
- The weight SNR'(t) of `ct` is small at the times where z tells nothing of the label and the image
  alone predicts it, and grows by the factor exp(10) to t = 1. One network has all times, so it
  learns to read z long before it learns the image. (In `dt` the weight is a constant factor of each
  block.) TIME_WEIGHT uniform has the weight 1 in its place, and a fixed, nearly linear gamma:
  trained with this weight, gamma would skip the times with a large error.
- The anchor loss of `fm` is also used with one-hot embeddings: it trains the read-out.
- Learned embeddings start orthogonal, where d allows it. The weights of the read-out start as the
  embeddings: its logits are products of z and every u_y.
- Inference draws its noise from a fixed seed, the same for every image, so that a prediction
  depends neither on the other images nor on a label.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn

from flowdet.config import pixel_settings
from flowdet.events import log_scalars
from flowdet.flow import LinearPath, LocalTraining, TimeEmbedding, inference_noise, training_noise
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.baselines.local_classifier import check_classes, grid_means
from flowdet.flowcls.embedding import ClassEmbedding

VARIANTS = ("dt", "ct", "fm")
EMBEDDINGS = ("one_hot", "learned")

# `predict(block, z, t)`: the output of a block for states [B, d], uhat or v, [B, d]
Predict = Callable[[int, Tensor, Tensor], Tensor]


class Process(nn.Module, ABC):
    """Noise of the embeddings, loss of a block and inference: one of the three variants.

    Attributes:
        num_blocks: number of networks.
        num_draws: number of noise vectors that inference needs.
        timed: whether the networks get the time.
        velocity: whether they predict v; otherwise uhat.
        trains_embedding: whether the loss of a block trains the embeddings.
    """

    num_blocks = 1
    num_draws = 1
    timed = True
    velocity = False
    trains_embedding = True

    @abstractmethod
    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Computes the losses of a block by name.

        Args:
            block: its index, from 0.
            predict: computes the output of a block.
            target: u_y, [B, d].
            class_loss: computes -log p(y | z), averaged, of states [B, d].
        """

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Computes the losses that need no block; for the arguments see `block_loss`."""
        return {}

    @abstractmethod
    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        """Computes z of every step of inference, without z_0, each [B, d].

        Args:
            predict: computes the output of a block.
            noise: [B, num_draws, d]; the first one is z_0.
        """


class DiscreteTime(Process):
    """NoProp-DT.

    Args:
        alpha_bar: abar_0, ..., abar_T.
    """

    timed = False
    trains_embedding = False

    def __init__(self, alpha_bar: Sequence[float]):
        super().__init__()
        self.alpha_bar = list(alpha_bar)
        self.num_blocks = len(self.alpha_bar) - 1
        self.num_draws = self.num_blocks + 1

    def snr(self, t: int) -> float:
        return self.alpha_bar[t] / (1 - self.alpha_bar[t])

    def coefficients(self, t: int) -> tuple[float, float, float]:
        """Returns a_t, b_t and c_t, t = 1, ..., T."""
        before, after = self.alpha_bar[t - 1], self.alpha_bar[t]
        ratio, noise = before / after, 1 - before
        return (
            math.sqrt(after) * (1 - ratio) / noise,
            math.sqrt(ratio) * (1 - after) / noise,
            (1 - after) * (1 - ratio) / noise,
        )

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        z = noisy(target, torch.tensor(self.alpha_bar[block]))
        error = squared_error(predict(block, z, time_of(z, block)), target).mean()
        return {"loss_denoise": (self.snr(block + 1) - self.snr(block)) * error}

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        return {"loss_class": class_loss(noisy(target, torch.tensor(self.alpha_bar[-1])))}

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        for t in range(1, self.num_blocks + 1):
            a, b, c = self.coefficients(t)
            z = a * predict(t - 1, z, time_of(z, t - 1)) + b * z + math.sqrt(c) * noise[:, t]
            states.append(z)
        return states


class ContinuousTime(Process):
    """NoProp-CT.

    Args:
        log_snr: log SNR at t = 0 and at t = 1.
        num_steps: number of ODE steps of inference.
        uniform: whether every time has the weight 1 in the loss, not SNR'(t). Then the schedule is
            not trained.
        num_terms: number of sigmoids of the schedule.
    """

    def __init__(
        self, log_snr: Sequence[float], num_steps: int, uniform: bool = False, num_terms: int = 8
    ):
        super().__init__()
        self.low, self.high = log_snr
        self.num_steps = num_steps
        self.uniform = uniform
        # softplus of these: the schedule starts as nearly linear
        self.slope = nn.Parameter(torch.zeros(()))
        self.weights = nn.Parameter(torch.full((num_terms,), -3.0))
        self.rates = nn.Parameter(torch.full((num_terms,), 5.0))
        self.centers = nn.Parameter(torch.linspace(0, 1, num_terms))
        self.requires_grad_(not uniform)

    def log_snr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Computes -gamma(t) and its derivative, for times [B]."""
        ends, _ = self._increasing(torch.tensor([0.0, 1.0], device=t.device))
        value, derivative = self._increasing(t)
        factor = (self.high - self.low) / (ends[1] - ends[0])
        return self.low + factor * (value - ends[0]), factor * derivative

    def _increasing(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope, weights, rates = map(F.softplus, (self.slope, self.weights, self.rates))
        s = (rates * (t[:, None] - self.centers)).sigmoid()
        value = slope * t + (weights * s).sum(dim=1)
        return value, slope + (weights * rates * s * (1 - s)).sum(dim=1)

    def alpha_bar(self, t: Tensor) -> Tensor:
        return self.log_snr(t)[0].sigmoid()

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        t = torch.rand(len(target), device=target.device)
        log_snr, derivative = self.log_snr(t)
        error = squared_error(predict(block, noisy(target, log_snr.sigmoid()), t), target)
        weight = 1.0 if self.uniform else log_snr.exp() * derivative
        return {"loss_denoise": (weight * error).mean()}

    def shared_losses(
        self, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        first, last = torch.tensor([self.low, self.high]).sigmoid()
        return {
            "loss_class": class_loss(noisy(target, last)),
            "loss_prior": prior_divergence(target, float(first)).mean(),
        }

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        alpha_bar = self.alpha_bar(torch.linspace(0, 1, self.num_steps + 1, device=z.device))
        for step in range(self.num_steps):
            before, after = alpha_bar[step], alpha_bar[step + 1]
            u = predict(0, z, time_of(z, step / self.num_steps))
            residual = (z - before.sqrt() * u) * ((1 - after) / (1 - before)).sqrt()
            z = after.sqrt() * u + residual
            states.append(z)
        return states


class FlowMatching(Process):
    """NoProp-FM.

    Args:
        num_steps: number of Euler steps of inference.
    """

    velocity = True

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = num_steps

    def block_loss(
        self, block: int, predict: Predict, target: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        path = LinearPath()
        t = torch.rand(len(target), device=target.device)
        sample = path.sample(training_noise(target.shape, 1.0, target.device), target, t)
        velocity = predict(block, sample.z_t, t)
        return {
            "loss_denoise": squared_error(velocity, sample.velocity).mean(),
            "loss_class": class_loss(path.target_of(sample.z_t, velocity, t)),
        }

    def states(self, predict: Predict, noise: Tensor) -> list[Tensor]:
        z, states = noise[:, 0], []
        for step in range(self.num_steps):
            z = z + predict(0, z, time_of(z, step / self.num_steps)) / self.num_steps
            states.append(z)
        return states


class DenoisingHead(nn.Module):
    """Combines the features of an image with a noisy embedding and, if timed, with the time.

    Args:
        feature_dim: dimension of the features.
        dim: d.
        hidden_dim: hidden units.
        num_outputs: number of outputs.
        timed: whether the time is an input.
    """

    def __init__(self, feature_dim: int, dim: int, hidden_dim: int, num_outputs: int, timed: bool):
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(feature_dim), nn.Linear(feature_dim, hidden_dim))
        self.state = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim)
        )
        self.time = TimeEmbedding(hidden_dim) if timed else None
        self.mlp = nn.Sequential(
            nn.ReLU(),
            nn.Linear((3 if timed else 2) * hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, num_outputs),
        )

    def forward(self, features: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Maps features [B, feature_dim], states [B, d] and times [B] to outputs."""
        inputs = [self.image(features), self.state(z)]
        if self.time is not None:
            inputs.append(self.time(t))
        return self.mlp(torch.cat(inputs, dim=1))


@META_ARCH_REGISTRY.register()
class NoPropClassifier(Classifier):
    """A classifier whose blocks each denoise the embedding of the label.

    Args:
        backbone: a backbone for each block, in a list.
        process: the variant.
        embedding: u of every class, and the read-out.
        hidden_dim: hidden units of a block's head.
        feature_grid: the head gets the last stage averaged over a grid of this many cells per side.
        eta: weight of the denoising losses of `dt` and `ct`.
        noise_seed: seed of the noise at inference.
        parts: the other arguments of `Classifier`.
    """

    class_tensors = ("embedding.", "heads.")

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.ModuleList,
        process: Process,
        embedding: ClassEmbedding,
        hidden_dim: int,
        feature_grid: int,
        eta: float,
        noise_seed: int,
        **parts,
    ):
        super().__init__(backbone=backbone, **parts)
        self.process = process
        self.embedding = embedding
        self.feature_grid = feature_grid
        self.denoise_weight = 1.0 if process.velocity else eta / 2
        shape = (process.num_draws, embedding.dim)
        noise = inference_noise(shape, 1.0, noise_seed, 1, torch.device("cpu"))
        self.register_buffer("noise", noise, persistent=False)
        self.last_stage, shape = list(backbone[0].output_shape().items())[-1]
        outputs = embedding.dim if process.velocity else embedding.num_classes
        sizes = (shape.channels * feature_grid**2, embedding.dim, hidden_dim, outputs)
        self.heads = nn.ModuleList(DenoisingHead(*sizes, process.timed) for _ in backbone)
        self.local = LocalTraining(process.num_blocks, "joint", 0)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.NOPROP
        check_classes(cfg)
        process = build_process(node)
        return {
            "backbone": nn.ModuleList(build_backbone(cfg) for _ in range(process.num_blocks)),
            "process": process,
            "embedding": build_embedding(node, cfg.MODEL.FLOW_CLS.NUM_CLASSES),
            "hidden_dim": node.HIDDEN_DIM,
            "feature_grid": node.FEATURE_GRID,
            "eta": node.ETA,
            "noise_seed": node.NOISE_SEED,
            "num_classes": cfg.MODEL.FLOW_CLS.NUM_CLASSES,
            "pixels": pixel_settings(cfg),
        }

    def image_losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of the blocks, summed, and those of embedding and read-out."""

        def class_loss(z: Tensor) -> Tensor:
            return F.cross_entropy(self.embedding.logits(z).float(), labels)

        statistics: dict[str, Tensor] = {}

        def block_loss(block: int, _: Sequence[Tensor]) -> dict[str, Tensor]:
            losses = self.block_loss(block, images, labels, class_loss)
            for name, value in losses.items():
                # no "loss" in the name, or detectron2 prints all of them in every line
                statistics[f"block{block}/{name.removeprefix('loss_')}"] = value.detach()
            return losses

        losses = self.local.losses(block_loss, [], list(self.parameters()))
        log_scalars(statistics)
        return losses | self.process.shared_losses(self.embedding.targets(labels), class_loss)

    def block_loss(
        self, block: int, images: Tensor, labels: Tensor, class_loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Computes the losses of a block by name; see `Process.block_loss`."""
        features = self.features(self.backbone[block](images))
        target = self.embedding.targets(labels)
        if not self.process.trains_embedding:
            target = target.detach()

        def predict(block: int, z: Tensor, t: Tensor) -> Tensor:
            return self.predict(block, features, z, t)

        losses = self.process.block_loss(block, predict, target, class_loss)
        return losses | {"loss_denoise": self.denoise_weight * losses["loss_denoise"]}

    def features(self, outputs: dict[str, Tensor]) -> Tensor:
        """Computes the features of a head, [B, feature_dim], from the outputs of a backbone."""
        return grid_means(outputs[self.last_stage], self.feature_grid, "MODEL.NOPROP.FEATURE_GRID")

    def predict(self, block: int, features: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Computes uhat or v of a block, [B, d], from its features, states and times [B]."""
        output = self.heads[block](features, z, t)
        table = self.embedding.table()
        if self.process.velocity:
            return output.to(table)
        if not self.process.trains_embedding:
            table = table.detach()
        return output.to(table).softmax(dim=1) @ table

    def states(self, outputs: Sequence[dict[str, Tensor]]) -> list[Tensor]:
        """Computes z of every step of inference, each [B, d].

        Args:
            outputs: the outputs of the backbone of every block.
        """
        features = [self.features(x) for x in outputs]
        noise = self.noise.expand(features[0].shape[0], -1, -1)

        def predict(block: int, z: Tensor, t: Tensor) -> Tensor:
            return self.predict(block, features[block], z, t)

        return self.process.states(predict, noise)

    def image_logits(self, images: Tensor, all_modes: bool) -> dict[str, Tensor]:
        """Computes the class logits of the only inference mode, `denoise`."""
        states = self.states([backbone(images) for backbone in self.backbone])
        return {"denoise": self.embedding.logits(states[-1])}

    def layer_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the outputs of the stages of every block, and z after it.

        The names are `block0_stage1`, ..., `block0`. In `ct` and `fm`, `block0` is z_1.
        """
        outputs = [backbone(images) for backbone in self.backbone]
        states = self.states(outputs)[-len(outputs) :]
        result: dict[str, Tensor] = {}
        for block, (stages, z) in enumerate(zip(outputs, states, strict=True)):
            result |= {f"block{block}_{name}": x for name, x in stages.items()}
            result[f"block{block}"] = z
        return result


def build_process(node: CfgNode) -> Process:
    """Builds the variant of `MODEL.NOPROP`."""
    if node.VARIANT == "dt":
        return DiscreteTime(cosine_schedule(node.NUM_BLOCKS))
    if node.VARIANT == "ct":
        return ContinuousTime(node.LOG_SNR, node.NUM_STEPS, node.TIME_WEIGHT == "uniform")
    return FlowMatching(node.NUM_STEPS)


def build_embedding(node: CfgNode, num_classes: int) -> ClassEmbedding:
    """Builds the class embeddings and the read-out of `MODEL.NOPROP`."""
    learned = node.EMBEDDING == "learned"
    dim = node.EMBEDDING_DIM if learned else num_classes
    embedding = ClassEmbedding(num_classes, dim, learn_target=learned)
    if learned:
        nn.init.orthogonal_(embedding.classes.weight)
    else:
        nn.init.eye_(embedding.classes.weight)
    with torch.no_grad():
        embedding.projection.weight.copy_(embedding.classes.weight)
        embedding.projection.bias.zero_()
    return embedding


def cosine_schedule(num_blocks: int, offset: float = 0.008) -> list[float]:
    """Returns abar_0 = 0, ..., abar_T = cos(offset / (1 + offset) pi / 2)^2, close to 1."""
    inner = [
        math.cos(math.pi / 2 * (1 - t / num_blocks + offset) / (1 + offset)) ** 2
        for t in range(1, num_blocks + 1)
    ]
    return [0.0, *inner]


def noisy(target: Tensor, alpha_bar: Tensor) -> Tensor:
    """Draws from N(sqrt(abar) u, (1 - abar) I) for targets u [B, d] and abar [B] or a number."""
    alpha_bar = alpha_bar.to(target).reshape(-1, 1)
    noise = training_noise(target.shape, 1.0, target.device)
    return alpha_bar.sqrt() * target + (1 - alpha_bar).sqrt() * noise


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Computes |x - y|^2 of vectors [B, d]: [B]."""
    return (x - y).square().sum(dim=1)


def prior_divergence(target: Tensor, alpha_bar: float) -> Tensor:
    """Computes KL(N(sqrt(abar) u, (1 - abar) I) || N(0, I)) for targets u [B, d]: [B]."""
    spread = alpha_bar + math.log1p(-alpha_bar)
    return (alpha_bar * target.square().sum(dim=1) - target.shape[1] * spread) / 2


def time_of(z: Tensor, t: float) -> Tensor:
    """Returns the time t of every state [B, d]: [B]."""
    return torch.full((z.shape[0],), float(t), device=z.device)
