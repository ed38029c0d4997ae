"""The losses of a flow block: flow loss and detection loss on its training states (eq. 19)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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
    NonFiniteError,
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
        self._begin(*features)
        losses: dict[str, Tensor] = {}
        # samples that read the same tokens share what the block computes from the tokens alone
        shared = {x: PreparedFeatures(self._tokens_to_read(x)) for x in (True, False)}

        def evaluate(sample: TrainingSample) -> Tensor:
            return self._evaluate(block, sample, shared[sample.trains_features], losses)

        self._states.visit(block, evaluate, self._z_1)
        return losses

    def in_parallel(self, blocks: Sequence[int], features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Computes the losses of several blocks by name, summed, in one graph.

        The samples at t = 0 of all blocks are one batched computation, and so are the interpolated
        ones. Those of a rollout follow each other. Gradients are those of block-local losses,
        because no state passes a gradient to another block.

        Args:
            blocks: indices of the blocks, ascending.
            features: see `__call__`.
        """
        self._begin(*features)
        losses: dict[str, Tensor] = {}
        independent: dict[bool, list[tuple[int, TrainingSample]]] = {True: [], False: []}

        def evaluate(block: int, sample: TrainingSample) -> Tensor | None:
            if sample.is_start or self.settings.kind == "interpolated":
                independent[sample.is_start].append((block, sample))
                return None
            tokens = self._tokens_to_read(sample.trains_features)
            return self._evaluate(block, sample, tokens, losses)

        for block in blocks:
            self._states.visit(block, partial(evaluate, block), self._z_1)
        for group in independent.values():
            if group:
                self._evaluate_together(group, losses)
        return losses

    def _evaluate(
        self, block: int, sample: TrainingSample, features: object, losses: dict[str, Tensor]
    ) -> Tensor:
        """Evaluates a block on a sample and adds its losses to `losses`.

        Returns the estimates of the M queries, [B, M, d]: later states are without denoising
        queries.
        """
        state, denoised = self._with_denoising_queries(sample.state)
        prediction = self.flow.predict(block, state, features)
        add_losses(losses, self._sample_losses(block, sample, prediction, denoised))
        return prediction.z1_hat[:, : self.num_queries]

    def _evaluate_together(
        self, group: Sequence[tuple[int, TrainingSample]], losses: dict[str, Tensor]
    ) -> None:
        """Evaluates blocks on a sample each, as one batched computation, and adds their losses."""
        extended = [self._with_denoising_queries(sample.state) for _, sample in group]
        predictions = self.flow.predict_in_parallel(
            [block for block, _ in group],
            [state for state, _ in extended],
            self._tokens_to_read(group[0][1].trains_features),
        )
        for (block, sample), (_, denoised), prediction in zip(
            group, extended, predictions, strict=True
        ):
            add_losses(losses, self._sample_losses(block, sample, prediction, denoised))

    def _sample_losses(
        self,
        block: int,
        sample: TrainingSample,
        prediction: Prediction,
        denoised: Tensor | None,
    ) -> dict[str, Tensor]:
        """Computes and logs the weighted losses of the prediction of a block for a sample.

        Args:
            block: index of the block.
            sample: the sample.
            prediction: of the M queries, then of the denoising queries.
            denoised: index of the object of each denoising query, [B, Q]; None for none.
        """
        try:
            parts, stats, assigned = self._detection_losses(sample, prediction.z1_hat, denoised)
        except NonFiniteError as error:
            error.block = block
            raise
        count = self.num_queries
        first = Prediction(prediction.output[:, :count], prediction.z1_hat[:, :count])
        target = gather_targets(self._embeddings, assigned) if self._z_1 is None else self._z_1
        loss_flow = flow_loss(first, sample.state, target, self.flow.prediction)
        parts["loss_flow"] = self.criterion.weights.flow * loss_flow
        weight = self.criterion.weights.start if sample.is_start else self.block_weights[block]
        losses = {name: weight * loss for name, loss in parts.items()}
        # no "loss" in the name, or detectron2 prints all of them in every line
        logged = {f"block{block}/{x.removeprefix('loss_')}": losses[x].detach() for x in losses}
        add_losses(self.statistics, logged)
        means = {f"block{block}/{name}": value for name, value in stats.items()}
        # those at t = 0 are logged only if the block has no other sample
        self.means = means | self.means if sample.is_start else self.means | means
        return losses

    def _tokens_to_read(self, trains_features: bool) -> ImageTokens:
        """Returns the tokens that a block gets, with or without a gradient to the features."""
        return self.tokens.with_tokens(self._tokens if trains_features else self._tokens.detach())

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
        """Takes the features of a block; for the first, makes the states.

        For interpolated states, it also couples queries and targets.
        """
        self._tokens, self._embeddings = tokens, embeddings
        interpolated = self.settings.kind == "interpolated"
        if self._states is None:
            features = self.tokens.with_tokens(tokens)
            self._states = self.make(self.settings, self.flow, self.z_0, features)
            if interpolated:
                with without_gradient():
                    ordered = ordered_assignment(self.targets, self.num_queries)
                    index = self.coupling(self.z_0, gather_targets(embeddings, ordered))
                    self._coupled = couple(ordered, index)
        self._z_1 = gather_targets(embeddings, self._coupled) if interpolated else None

    def _match(self, sample: TrainingSample, logits: Tensor, boxes: Tensor) -> Tensor:
        """Returns the index of the object of each query, [B, M]; -1 is background."""
        if not self.shared_matching:
            return self.matcher(logits, boxes, self.targets)
        # a rollout continues from t = 0 with the same queries; interpolated states do not
        separate = self.settings.kind == "interpolated" and not sample.is_start
        if separate not in self._matchings:
            self._matchings[separate] = self.matcher(logits, boxes, self.targets)
        return self._matchings[separate]
