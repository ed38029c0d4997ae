"""FlowMatchingClassifier: image classification as transport to class embeddings (3, A.1, A.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.config import state_settings
from flowdet.events import log_scalars
from flowdet.flow import (
    FlowEnsemble,
    LocalTraining,
    PerBlock,
    StateSettings,
    StatesMaker,
    Walk,
    add_losses,
    make_states,
    solve,
)
from flowdet.flow.solvers import check_mode
from flowdet.flowcls.base import Classifier
from flowdet.flowcls.build import build_flow, build_shared_parts
from flowdet.flowcls.embedding import ClassEmbedding

TOPOLOGIES = ("parallel", "sequential")


@META_ARCH_REGISTRY.register()
class FlowMatchingClassifier(Classifier):
    """A classifier whose T flow blocks carry noise to class embeddings.

    Args:
        flow: the T blocks.
        embedding: the class embeddings.
        topology: `parallel`: all blocks see the reader's only feature; `sequential`: block k
            sees the k-th of T.
        states: on which states the blocks learn.
        schedule: `joint` or `alternate`.
        pass_length: iterations in one pass over the data, for `alternate`.
        noise_scale: standard deviation of z_0.
        flow_weight, class_weight: of the flow loss (eq. 14) and the anchor loss (eq. 17).
        inference_mode, num_steps, single_step_block: see `flowdet.flow.solve`.
        eval_steps: numbers of Euler steps that an evaluation reports.
        noise_seed: of z_0 at inference, which is the same for every image, so that what is
            said of an image does not depend on the others in its batch.
        parts: those of `Classifier`.
    """

    @configurable
    def __init__(
        self,
        *,
        flow: FlowEnsemble,
        embedding: ClassEmbedding,
        topology: str,
        states: StateSettings,
        schedule: str,
        pass_length: int,
        noise_scale: float,
        flow_weight: float,
        class_weight: float,
        inference_mode: str,
        num_steps: int,
        single_step_block: int,
        eval_steps: Sequence[int],
        noise_seed: int,
        **parts,
    ):
        super().__init__(**parts)
        if topology not in TOPOLOGIES:
            raise ValueError(f"unknown topology {topology!r}: use one of {TOPOLOGIES}")
        for steps in (num_steps, *eval_steps):
            check_mode(inference_mode, steps, single_step_block, flow.num_blocks)
        self.flow = flow
        self.embedding = embedding
        self.topology = topology
        self.states = states
        self.local = LocalTraining(flow.num_blocks, schedule, pass_length)
        self.noise_scale = noise_scale
        self.flow_weight = flow_weight
        self.class_weight = class_weight
        self.inference_mode = inference_mode
        self.num_steps = num_steps
        self.single_step_block = single_step_block
        self.eval_steps = list(eval_steps)
        self.noise_seed = noise_seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.FLOW_CLS
        shared = build_shared_parts(cfg)
        count = node.NUM_BLOCKS
        block = node.SINGLE_STEP_BLOCK
        return {
            **shared,
            "flow": build_flow(node, shared["reader"].channels),
            "embedding": ClassEmbedding(
                node.NUM_CLASSES,
                node.HIDDEN_DIM,
                node.NORMALIZE_TARGET,
                node.LEARN_TARGET,
                node.TIE_CLASSES,
            ),
            "topology": node.TOPOLOGY,
            "states": state_settings(node, walk_trains_features=False),
            "schedule": node.SCHEDULE,
            "pass_length": node.PASS_LENGTH,
            "noise_scale": node.NOISE_SCALE,
            "flow_weight": node.FLOW_WEIGHT,
            "class_weight": node.CLASS_WEIGHT,
            "inference_mode": node.INFERENCE_MODE,
            "num_steps": node.NUM_STEPS or count,
            "single_step_block": count - 1 if block == -1 else block,
            "eval_steps": node.EVAL_STEPS or sorted({1, 2, count, 2 * count}),
            "noise_seed": node.NOISE_SEED,
        }

    def losses(self, features: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The summed losses of the blocks that learn in this iteration (eq. 19)."""
        block_losses, inputs = self.block_losses(features, labels)
        parameters = [*self.flow.parameters(), *self.embedding.parameters()]
        losses = self.local.losses(block_losses, inputs, parameters)
        log_scalars(block_losses.watched)
        return losses

    def block_losses(
        self, features: list[Tensor], labels: Tensor, make: StatesMaker = make_states
    ) -> tuple[BlockLosses, list[Tensor]]:
        """The losses of the single blocks on states that `make` makes, and what they take."""
        return BlockLosses(self, labels, make), [*features, self.embedding.targets(labels)]

    def arrange(self, features: Sequence[Tensor]) -> Tensor | PerBlock:
        """The reader's features as the flow takes them."""
        return features[0] if self.topology == "parallel" else PerBlock(features)

    def initial_noise(self, batch: int) -> Tensor:
        """z_0 at inference, [B, d]: the same for every image."""
        generator = torch.Generator().manual_seed(self.noise_seed)
        noise = torch.randn(1, self.embedding.dim, generator=generator)
        return (self.noise_scale * noise).to(self.device).expand(batch, -1)

    def logits(
        self,
        features: list[Tensor],
        mode: str,
        num_steps: int = 1,
        block: int = 0,
        z_0: Tensor | None = None,
    ) -> Tensor:
        """Class logits [B, C] by one inference mode of `flowdet.flow.solve`, from noise [B, d], by
        default that of `initial_noise`."""
        z_0 = self.initial_noise(len(features[0])) if z_0 is None else z_0
        arranged = self.arrange(features)
        solution = solve(self.flow, z_0, arranged, mode, num_steps=num_steps, block=block)
        return self.embedding.logits(solution.z_1)

    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """The configured mode, then all others, by the names of their walks."""
        walks = [Walk(self.inference_mode, self.num_steps, self.single_step_block)]
        if all_modes:
            walks += [Walk("single_step", block=k) for k in range(self.flow.num_blocks)]
            walks += [Walk("ensemble")]
            walks += [Walk("multi_step", steps) for steps in self.eval_steps]
            # with one step it is `ensemble`
            walks += [Walk("multi_step_ensemble", n) for n in self.eval_steps if n > 1]
        by_name = {walk.name: walk for walk in walks}
        return {name: self.logits(features, *walk) for name, walk in by_name.items()}


class BlockLosses:
    """`block_loss(k, features)` of one iteration, for `flowdet.flow.block_local_losses`.

    Args:
        model: the classifier.
        labels: [B].
        make: makes the training states, see `make_states`.

    Attributes:
        watched: the losses and the accuracy of each block, for the event storage.
    """

    def __init__(
        self, model: FlowMatchingClassifier, labels: Tensor, make: StatesMaker = make_states
    ):
        self.model = model
        self.labels = labels
        self.make = make
        self.states = None
        self.watched: dict[str, Tensor] = {}

    def __call__(self, block: int, inputs: list[Tensor]) -> dict[str, Tensor]:
        model = self.model
        *features, z_1 = inputs
        if self.states is None:
            z_0 = model.noise_scale * torch.randn_like(z_1)
            self.states = self.make(model.states, model.flow, z_0, model.arrange(features))
        losses: dict[str, Tensor] = {}
        for lesson in self.states.lessons(block, z_1):
            seen = features if lesson.trains_features else [x.detach() for x in features]
            prediction = model.flow.predict(block, lesson.state, model.arrange(seen))
            logits = model.embedding.logits(prediction.z1_hat).float()
            loss_flow = model.flow.flow_loss(prediction, lesson.state, z_1)
            add_losses(
                losses,
                {
                    "loss_flow": model.flow_weight * loss_flow,
                    "loss_class": model.class_weight * F.cross_entropy(logits, self.labels),
                },
            )
        self.states.visited(block, prediction.z1_hat)
        for name, value in losses.items():
            # no "loss" in the name, or detectron2 prints all of them in every line
            self.watched[f"block{block}/{name.removeprefix('loss_')}"] = value.detach()
        accuracy = (logits.argmax(dim=1) == self.labels).float().mean()
        self.watched[f"block{block}/accuracy"] = accuracy.detach()
        return losses
