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
    PreparedFeatures,
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
        self.num_queries = z_0.shape[1]
        self.normalizer = criterion.normalizer(targets, self.num_queries)
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
        # samples that read the same tokens share what the block computes from the tokens alone
        shared = {
            trains_features: PreparedFeatures(self.tokens.with_tokens(read))
            for trains_features, read in ((True, tokens), (False, tokens.detach()))
        }

        def evaluate(sample: TrainingSample) -> Tensor:
            state, denoised = self._with_denoising_queries(sample.state)
            prediction = self.flow.predict(block, state, shared[sample.trains_features])
            parts, stats, assigned = self._detection_losses(sample, prediction.z1_hat, denoised)
            # the flow loss and the states of later blocks are without denoising queries
            count = self.num_queries
            first = Prediction(prediction.output[:, :count], prediction.z1_hat[:, :count])
            target = gather_targets(embeddings, assigned) if z_1 is None else z_1
            loss_flow = flow_loss(first, sample.state, target, self.flow.prediction)
            parts["loss_flow"] = self.criterion.weights.flow * loss_flow
            weight = self.criterion.weights.start if sample.is_start else self.block_weights[block]
            add_losses(losses, {name: weight * loss for name, loss in parts.items()})
            means.update(stats)
            return first.z1_hat

        self._states.visit(block, evaluate, z_1)
        # no "loss" in the name, or detectron2 prints all of them in every line
        for name, loss in losses.items():
            self.statistics[f"block{block}/{name.removeprefix('loss_')}"] = loss.detach()
        self.means |= {f"block{block}/{name}": value for name, value in means.items()}
        return losses

    def _with_denoising_queries(self, state: FlowState) -> tuple[FlowState, Tensor | None]:
        """Returns the state of all queries, and the objects of the denoising queries [B, Q]."""
        if self.denoising is None:
            return state, None
        return self.denoising.extend(state, self.targets, self.proposals)

    def _detection_losses(
        self, sample: TrainingSample, z1_hat: Tensor, denoised: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Matches the estimates of a sample with the objects, and computes their detection losses.

        Args:
            sample: the sample.
            z1_hat: the estimates of the M queries, then those of the denoising queries.
            denoised: index of the object of each denoising query, [B, Q]; None for none.

        Returns:
            Losses, statistics, and the index of the object of each of the M queries, [B, M].
        """
        logits, boxes = self.heads(z1_hat)
        own = logits[:, : self.num_queries], boxes[:, : self.num_queries]
        assigned = self._match(sample, *own)
        losses, stats = self.criterion(*own, self.targets, assigned, self.normalizer)
        if denoised is not None:
            others = logits[:, self.num_queries :], boxes[:, self.num_queries :]
            more_losses, more_stats = self.denoising.losses(*others, self.targets, denoised)
            add_losses(losses, more_losses)
            stats |= more_stats
        return losses, stats, assigned

    def _begin(self, tokens: Tensor, embeddings: Tensor) -> None:
        """Makes the states and, for interpolated states, the coupling of queries and targets."""
        features = self.tokens.with_tokens(tokens)
        self._states = self.make(self.settings, self.flow, self.z_0, features)
        if self.settings.kind == "interpolated":
            with without_gradient():
                ordered = ordered_assignment(self.targets, self.num_queries)
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
