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

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn

from flowdet.config import pixel_settings
from flowdet.events import log_scalars
from flowdet.flow import LocalTraining, TimeEmbedding, inference_noise
from flowdet.flowcls.base_classifier import Classifier
from flowdet.flowcls.baselines.local_classifier import check_classes, grid_means
from flowdet.flowcls.baselines.noprop_processes import (
    ContinuousTime,
    DiscreteTime,
    FlowMatching,
    Process,
    cosine_schedule,
)
from flowdet.flowcls.embedding import ClassEmbedding

VARIANTS = ("dt", "ct", "fm")
EMBEDDINGS = ("one_hot", "learned")


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
