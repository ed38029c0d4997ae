"""FlowMatchingClassifier: a classifier whose blocks are trained by flow matching.

Each block has its own loss (sections 3, A.1, A.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.config import inference_settings, state_settings
from flowdet.events import log_scalars, warn_of_untrained_blocks
from flowdet.flow import (
    FlowEnsemble,
    InferencePlan,
    InferenceSettings,
    LocalTraining,
    PerBlockFeatures,
    StateSettings,
    TrainingSample,
    TrainingStatesFactory,
    add_losses,
    flow_loss,
    inference_noise,
    make_training_states,
    solve,
    training_noise,
)
from flowdet.flowcls.block_classifier import BlockClassifier
from flowdet.flowcls.build import build_flow, build_shared_parts
from flowdet.flowcls.embedding import ClassEmbedding

TOPOLOGIES = ("parallel", "sequential")


@META_ARCH_REGISTRY.register()
class FlowMatchingClassifier(BlockClassifier):
    """A classifier whose T flow blocks map noise to class embeddings.

    Args:
        flow: the T blocks.
        embedding: the class embeddings.
        topology: `parallel`: all blocks get the same feature; `sequential`: block k gets the k-th
            of T features.
        states: how the training states of the blocks are made.
        schedule: `joint` or `alternate`, see `blocks_to_train`.
        iters_per_epoch: iterations per epoch, for `alternate`.
        noise_scale: standard deviation of z_0.
        flow_weight: weight of the flow loss (eq. 14).
        class_weight: weight of the cross-entropy, the paper's anchor loss (eq. 17).
        settings: inference mode and seed of z_0. z_0 is the same for every image, so that results
            do not depend on the batch.
        eval_steps: numbers of Euler steps that an evaluation reports.
        parts: the arguments of `BlockClassifier`.

    Raises:
        ValueError: a setting is unknown or out of range.
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
        iters_per_epoch: int,
        noise_scale: float,
        flow_weight: float,
        class_weight: float,
        settings: InferenceSettings,
        eval_steps: Sequence[int],
        **parts,
    ):
        super().__init__(**parts)
        if topology not in TOPOLOGIES:
            raise ValueError(
                f"unknown MODEL.FLOW_CLS.TOPOLOGY {topology!r}: use one of {TOPOLOGIES}"
            )
        for steps in (settings.plan.num_steps, *eval_steps):
            settings.plan._replace(num_steps=steps).check(flow.num_blocks)
        self.flow = flow
        self.embedding = embedding
        self.topology = topology
        self.states = states
        self.local = LocalTraining(flow.num_blocks, schedule, iters_per_epoch)
        self.noise_scale = noise_scale
        self.flow_weight = flow_weight
        self.class_weight = class_weight
        self.settings = settings
        self.eval_steps = list(eval_steps)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.FLOW_CLS
        shared = build_shared_parts(cfg)
        count = node.NUM_BLOCKS
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
            "states": state_settings(node),
            "schedule": node.SCHEDULE,
            "iters_per_epoch": node.ITERS_PER_EPOCH,
            "noise_scale": node.NOISE_SCALE,
            "flow_weight": node.FLOW_WEIGHT,
            "class_weight": node.CLASS_WEIGHT,
            "settings": inference_settings(node),
            "eval_steps": node.EVAL_STEPS or sorted({1, 2, count, 2 * count}),
        }

    def losses(self, features: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Computes the losses of the blocks that are trained in this iteration, summed (eq. 19)."""
        block_losses, inputs = self.block_losses(features, labels)
        parameters = [*self.flow.parameters(), *self.embedding.parameters()]
        losses = self.local.losses(block_losses, inputs, parameters)
        log_scalars(block_losses.statistics)
        return losses

    def block_losses(
        self,
        features: list[Tensor],
        labels: Tensor,
        make: TrainingStatesFactory = make_training_states,
    ) -> tuple[BlockLosses, list[Tensor]]:
        """Returns the loss function of the blocks for one batch, and its inputs.

        Args:
            features: the reader's features.
            labels: class indices, [B].
            make: makes the training states.

        Returns:
            The loss function, called as `block_losses(block, inputs)`; and its inputs, the features
            and the targets z_1 [B, d].
        """
        block_losses = BlockLosses(
            flow=self.flow,
            embedding=self.embedding,
            settings=self.states,
            arrange=self.arrange,
            noise_scale=self.noise_scale,
            flow_weight=self.flow_weight,
            class_weight=self.class_weight,
            labels=labels,
            make=make,
        )
        return block_losses, [*features, self.embedding.targets(labels)]

    def arrange(self, features: Sequence[Tensor]) -> Tensor | PerBlockFeatures:
        """Returns the reader's features in the form that `FlowEnsemble` takes."""
        return features[0] if self.topology == "parallel" else PerBlockFeatures(features)

    def initial_noise(self, batch: int) -> Tensor:
        """Draws z_0 for inference, [B, d]. It is the same for every image."""
        seed = self.settings.noise_seed
        return inference_noise((self.embedding.dim,), self.noise_scale, seed, batch, self.device)

    def logits(
        self, features: list[Tensor], plan: InferencePlan, z_0: Tensor | None = None
    ) -> Tensor:
        """Computes class logits [B, C] in one inference mode.

        Args:
            features: the reader's features.
            plan: the inference mode.
            z_0: noise, [B, d]; by default `initial_noise`.
        """
        return self.embedding.logits(self.estimate(features, plan, z_0))

    def estimate(
        self, features: list[Tensor], plan: InferencePlan, z_0: Tensor | None = None
    ) -> Tensor:
        """Computes the estimates of z_1, [B, d]; for the arguments see `logits`."""
        z_0 = self.initial_noise(len(features[0])) if z_0 is None else z_0
        solution = solve(
            self.flow,
            z_0,
            self.arrange(features),
            plan.mode,
            num_steps=plan.num_steps,
            block=plan.block,
        )
        return solution.z_1

    def block_outputs(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Computes the estimate of z_1 of every block, [B, d], from the noise at t = 0."""
        plans = [InferencePlan("single_step", block=k) for k in range(self.flow.num_blocks)]
        return {f"block{k}": self.estimate(features, plan) for k, plan in enumerate(plans)}

    def logits_by_mode(self, features: list[Tensor], all_modes: bool) -> dict[str, Tensor]:
        """See `BlockClassifier.logits_by_mode`.

        Warns once if the configured mode evaluates blocks at t = 0 that were never trained there.
        """
        warn_of_untrained_blocks(
            self.settings.plan, self.states, self.flow.num_blocks, "MODEL.FLOW_CLS"
        )
        plans = [self.settings.plan]
        if all_modes:
            plans += [InferencePlan("single_step", block=k) for k in range(self.flow.num_blocks)]
            plans += [InferencePlan("ensemble")]
            plans += [InferencePlan("multi_step", steps) for steps in self.eval_steps]
            # with one step, the mode is the same as `ensemble`
            plans += [InferencePlan("multi_step_ensemble", n) for n in self.eval_steps if n > 1]
        by_name = {plan.name: plan for plan in plans}
        return {name: self.logits(features, plan) for name, plan in by_name.items()}


class BlockLosses:
    """The function `block_loss(k, features)` of one iteration, for `block_local_losses`.

    Args:
        flow: the T blocks.
        embedding: computes the class logits of estimates.
        settings: how the training states are made.
        arrange: brings features into the form that `FlowEnsemble` takes.
        noise_scale: standard deviation of z_0.
        flow_weight, class_weight: weights of the two losses.
        labels: class indices, [B].
        make: makes the training states, see `make_training_states`.

    Attributes:
        statistics: losses and accuracy of each block, for the event storage.
    """

    def __init__(
        self,
        *,
        flow: FlowEnsemble,
        embedding: ClassEmbedding,
        settings: StateSettings,
        arrange: Callable[[Sequence[Tensor]], Tensor | PerBlockFeatures],
        noise_scale: float,
        flow_weight: float,
        class_weight: float,
        labels: Tensor,
        make: TrainingStatesFactory = make_training_states,
    ):
        self.flow = flow
        self.embedding = embedding
        self.settings = settings
        self.arrange = arrange
        self.noise_scale = noise_scale
        self.flow_weight = flow_weight
        self.class_weight = class_weight
        self.labels = labels
        self.make = make
        self.statistics: dict[str, Tensor] = {}
        self._states = None

    def __call__(self, block: int, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Computes the losses of a block by name.

        Args:
            block: index of the block, from 0. Calls are in ascending order.
            inputs: the reader's features, then the targets z_1 [B, d].
        """
        *features, z_1 = inputs
        if self._states is None:
            z_0 = training_noise(z_1.shape, self.noise_scale, z_1.device).to(z_1.dtype)
            self._states = self.make(self.settings, self.flow, z_0, self.arrange(features))
        losses: dict[str, Tensor] = {}

        def evaluate(sample: TrainingSample) -> Tensor:
            read = features if sample.trains_features else [x.detach() for x in features]
            prediction = self.flow.predict(block, sample.state, self.arrange(read))
            logits = self.embedding.logits(prediction.z1_hat).float()
            loss_flow = flow_loss(prediction, sample.state, z_1, self.flow.prediction)
            add_losses(
                losses,
                {
                    "loss_flow": self.flow_weight * loss_flow,
                    "loss_class": self.class_weight * F.cross_entropy(logits, self.labels),
                },
            )
            accuracy = (logits.argmax(dim=1) == self.labels).float().mean()
            self.statistics[f"block{block}/accuracy"] = accuracy.detach()
            return prediction.z1_hat

        self._states.visit(block, evaluate, z_1)
        for name, value in losses.items():
            # no "loss" in the name, or detectron2 prints all of them in every line
            self.statistics[f"block{block}/{name.removeprefix('loss_')}"] = value.detach()
        return losses
