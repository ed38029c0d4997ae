"""The losses of a flow block: flow loss and detection loss on its training states (eq. 19)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowdet.detection.criterion import SetCriterion
from flowdet.detection.denoising import Denoising
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.targets import Targets, gather_targets, ordered_assignment
from flowdet.detection.tokens import ImageTokens
from flowdet.flow import (
    FlowEnsemble,
    FlowState,
    Prediction,
    StateSettings,
    TrainingSample,
    TrainingStatesFactory,
    add_losses,
    couple,
    flow_loss,
    make_training_states,
    without_gradient,
)
from flowdet.flow.path import Coupling


class BlockLosses:
    """The function `block_loss(k, features)` of one iteration, for `block_local_losses`.

    Args:
        flow: the T blocks.
        heads, matcher, criterion: decode estimates and compute their detection loss. The criterion
            also has the weights of all losses.
        settings: how the training states are made.
        coupling: assigns targets to queries in interpolated states.
        shared_matching: all blocks use the matching of the first block; otherwise each block
            matches its own prediction.
        tokens: image tokens. Their vectors are replaced by those in `features`.
        targets: the objects.
        z_0: noise, [B, M, d].
        denoising: makes denoising queries and computes their losses; None for none.
        proposals: boxes for denoising queries, [B, P, 4], normalized cxcywh; None for none.
        make: makes the training states, see `make_training_states`.

    Attributes:
        statistics: the losses of each block, for the event storage.
        means: means over the matched queries of each block, for the event storage; NaN without
            matched queries.
    """

    def __init__(
        self,
        *,
        flow: FlowEnsemble,
        heads: DetectionHeads,
        matcher: HungarianMatcher,
        criterion: SetCriterion,
        settings: StateSettings,
        coupling: Coupling,
        shared_matching: bool,
        tokens: ImageTokens,
        targets: Targets,
        z_0: Tensor,
        denoising: Denoising | None = None,
        proposals: Tensor | None = None,
        make: TrainingStatesFactory = make_training_states,
    ):
        self.flow = flow
        self.heads = heads
        self.matcher = matcher
        self.criterion = criterion
        self.block_weights = criterion.weights.per_block(flow.num_blocks)
        self.settings = settings
        self.coupling = coupling
        self.shared_matching = shared_matching
        self.tokens = tokens
        self.targets = targets
        self.z_0 = z_0
        self.denoising = denoising
        self.proposals = proposals
        self.make = make
        self.normalizer = criterion.normalizer(targets, z_0.shape[1])
        self.statistics: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        self._states = None
        self._coupled: Tensor | None = None
        self._matchings: dict[bool, Tensor] = {}

    def __call__(self, block: int, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Computes the losses of a block by name.

        Args:
            block: index of the block, from 0. Calls are in ascending order.
            features: the token vectors [B, N, d] and the target embeddings [B, G + 1, d].
        """
        tokens, embeddings = features
        if self._states is None:
            self._begin(tokens, embeddings)
        z_1 = None if self._coupled is None else gather_targets(embeddings, self._coupled)
        losses: dict[str, Tensor] = {}
        means: dict[str, Tensor] = {}

        def evaluate(sample: TrainingSample) -> Tensor:
            read = tokens if sample.trains_features else tokens.detach()
            prediction, denoising_losses, denoising_stats = self._predict(
                block, sample.state, self.tokens.with_tokens(read)
            )
            logits, boxes = self.heads(prediction.z1_hat)
            assigned = self._match(sample, logits, boxes)
            parts, stats = self.criterion(logits, boxes, self.targets, assigned, self.normalizer)
            add_losses(parts, denoising_losses)
            target = gather_targets(embeddings, assigned) if z_1 is None else z_1
            loss_flow = flow_loss(prediction, sample.state, target, self.flow.prediction)
            parts["loss_flow"] = self.criterion.weights.flow * loss_flow
            weight = self.criterion.weights.start if sample.is_start else self.block_weights[block]
            add_losses(losses, {name: weight * loss for name, loss in parts.items()})
            means.update(stats | denoising_stats)
            return prediction.z1_hat

        self._states.visit(block, evaluate, z_1)
        # no "loss" in the name, or detectron2 prints all of them in every line
        for name, loss in losses.items():
            self.statistics[f"block{block}/{name.removeprefix('loss_')}"] = loss.detach()
        self.means |= {f"block{block}/{name}": value for name, value in means.items()}
        return losses

    def _predict(
        self, block: int, state: FlowState, features: ImageTokens
    ) -> tuple[Prediction, dict[str, Tensor], dict[str, Tensor]]:
        """Evaluates a block on a state, together with denoising queries.

        Returns:
            The prediction of the M queries, and losses and statistics of the denoising queries.
        """
        if self.denoising is None:
            return self.flow.predict(block, state, features), {}, {}
        extended, assigned = self.denoising.extend(state, self.targets, self.proposals)
        prediction = self.flow.predict(block, extended, features)
        count = state.z.shape[1]
        decoded = self.heads(prediction.z1_hat[:, count:])
        losses, statistics = self.denoising.losses(*decoded, self.targets, assigned)
        first = Prediction(prediction.output[:, :count], prediction.z1_hat[:, :count])
        return first, losses, statistics

    def _begin(self, tokens: Tensor, embeddings: Tensor) -> None:
        """Makes the states and, for interpolated states, the coupling of queries and targets."""
        features = self.tokens.with_tokens(tokens)
        self._states = self.make(self.settings, self.flow, self.z_0, features)
        if self.settings.kind == "interpolated":
            with without_gradient():
                ordered = ordered_assignment(self.targets, self.z_0.shape[1])
                index = self.coupling(self.z_0, gather_targets(embeddings, ordered))
                self._coupled = couple(ordered, index)

    def _match(self, sample: TrainingSample, logits: Tensor, boxes: Tensor) -> Tensor:
        """Returns the index of the object of each query, [B, M]; -1 is background."""
        if not self.shared_matching:
            return self.matcher(logits, boxes, self.targets)
        # a rollout continues from t = 0 with the same queries; interpolated states do not
        separate = self.settings.kind == "interpolated" and not sample.is_start
        if separate not in self._matchings:
            self._matchings[separate] = self.matcher(logits, boxes, self.targets)
        return self._matchings[separate]
