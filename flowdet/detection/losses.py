"""What one flow block is trained by: flow loss and detection loss on its state (eq. 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from flowdet.detection.targets import Targets, gather_targets, ordered_assignment
from flowdet.flow import (
    ImageTokens,
    Lesson,
    StatesMaker,
    add_losses,
    couple,
    make_states,
    without_gradient,
)

if TYPE_CHECKING:
    from flowdet.detection.detector import FlowMatchingDetector


class BlockLosses:
    """`block_loss(k, features)` of one iteration, for `flowdet.flow.block_local_losses`.

    Args:
        model: the detector.
        tokens: what the blocks attend to; their features are replaced by those handed in.
        targets: the objects.
        z_0: noise, [B, M, d].
        make: makes the training states, see `make_states`.

    Attributes:
        watched: the losses and statistics of each block, for the event storage.
    """

    def __init__(
        self,
        model: FlowMatchingDetector,
        tokens: ImageTokens,
        targets: Targets,
        z_0: Tensor,
        make: StatesMaker = make_states,
    ):
        self.model = model
        self.tokens = tokens
        self.targets = targets
        self.z_0 = z_0
        self.make = make
        self.normaliser = model.criterion.normaliser(targets, model.num_queries)
        self.states = None
        self.coupled = None
        self.agreed: dict[bool, Tensor] = {}
        self.watched: dict[str, Tensor] = {}

    def __call__(self, block: int, features: list[Tensor]) -> dict[str, Tensor]:
        model = self.model
        tokens, embeddings = features
        if self.states is None:
            self._begin(self.tokens.with_tokens(tokens), embeddings)
        coupled = None if self.coupled is None else gather_targets(embeddings, self.coupled)
        losses: dict[str, Tensor] = {}
        *beside, last = self.states.lessons(block, coupled)
        for lesson in (*beside, last):
            seen = tokens if lesson.trains_features else tokens.detach()
            prediction = model.flow.predict(block, lesson.state, self.tokens.with_tokens(seen))
            logits, boxes = model.heads(prediction.z1_hat)
            assigned = self._assign(lesson, logits, boxes)
            found, stats = model.criterion(logits, boxes, self.targets, assigned, self.normaliser)
            z_1 = gather_targets(embeddings, assigned) if coupled is None else coupled
            loss_flow = model.flow.flow_loss(prediction, lesson.state, z_1)
            found["loss_flow"] = model.flow_weight * loss_flow
            weight = model.block_weights[block] if lesson is last else model.start_weight
            add_losses(losses, {name: weight * loss for name, loss in found.items()})
        self.states.visited(block, prediction.z1_hat)
        for name, value in {**losses, **stats}.items():
            # no "loss" in the name, or detectron2 prints all of them in every line
            self.watched[f"block{block}/{name.removeprefix('loss_')}"] = value.detach()
        return losses

    def _begin(self, context: ImageTokens, embeddings: Tensor) -> None:
        """Makes the states and, of interpolated ones, which query goes to which object."""
        model = self.model
        self.states = self.make(model.states, model.flow, self.z_0, context)
        if model.states.kind == "interpolated":
            with without_gradient():
                ordered = ordered_assignment(self.targets, model.num_queries)
                index = model.couple(self.z_0, gather_targets(embeddings, ordered))
                self.coupled = couple(ordered, index)

    def _assign(self, lesson: Lesson, logits: Tensor, boxes: Tensor) -> Tensor:
        """The object of each query, [B, M], in a block's lesson."""
        model = self.model
        if model.assignment == "own":
            return model.matcher(logits, boxes, self.targets)
        # a walk goes on from t = 0 with the queries of there, interpolated states do not
        apart = model.states.kind == "interpolated" and lesson.state is not self.states.initial
        if apart not in self.agreed:
            self.agreed[apart] = model.matcher(logits, boxes, self.targets)
        return self.agreed[apart]
