"""What one flow block is trained by: flow loss and detection loss on its state (eq. 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from flowdet.detection.targets import Targets, gather_targets, ordered_assignment
from flowdet.flow import ImageTokens, couple, make_states, without_gradient

if TYPE_CHECKING:
    from flowdet.detection.detector import FlowMatchingDetector


class BlockLosses:
    """`block_loss(k, features)` of one iteration, for `flowdet.flow.block_local_losses`.

    Args:
        model: the detector.
        tokens: what the blocks attend to; their features are replaced by those handed in.
        targets: the objects.
        z_0: noise, [B, M, d].

    Attributes:
        watched: the losses and statistics of each block, for the event storage.
    """

    def __init__(
        self, model: FlowMatchingDetector, tokens: ImageTokens, targets: Targets, z_0: Tensor
    ):
        self.model = model
        self.tokens = tokens
        self.targets = targets
        self.z_0 = z_0
        self.normaliser = model.criterion.normaliser(targets, model.num_queries)
        self.states = None
        self.coupled = None
        self.assigned = None
        self.watched: dict[str, Tensor] = {}

    def __call__(self, block: int, features: list[Tensor]) -> dict[str, Tensor]:
        model = self.model
        context = self.tokens.with_tokens(features[0])
        embeddings = features[1]
        if self.states is None:
            self._begin(context, embeddings)
        coupled = None if self.coupled is None else gather_targets(embeddings, self.coupled)
        state = self.states.state(block, coupled)
        prediction = model.flow.predict(block, state, context)
        self.states.visited(block, prediction.z1_hat)
        logits, boxes = model.heads(prediction.z1_hat)
        assigned = self.assigned
        if assigned is None:
            assigned = model.matcher(logits, boxes, self.targets)
        losses, stats = model.criterion(logits, boxes, self.targets, assigned, self.normaliser)
        z_1 = gather_targets(embeddings, assigned) if coupled is None else coupled
        losses["loss_flow"] = model.flow_weight * model.flow.flow_loss(prediction, state, z_1)
        for name, value in {**losses, **stats}.items():
            # no "loss" in the name, or detectron2 prints all of them in every line
            self.watched[f"block{block}/{name.removeprefix('loss_')}"] = value.detach()
        return losses

    def _begin(self, context: ImageTokens, embeddings: Tensor) -> None:
        """Makes the states and, where all blocks share it, the assignment."""
        model = self.model
        self.states = make_states(model.states, model.flow, self.z_0, context)
        with without_gradient():
            if model.states.kind == "interpolated":
                ordered = ordered_assignment(self.targets, model.num_queries)
                index = model.couple(self.z_0, gather_targets(embeddings, ordered))
                self.coupled = couple(ordered, index)
            if self.states.consensus is not None:
                self.assigned = model.matcher(*model.heads(self.states.consensus), self.targets)
