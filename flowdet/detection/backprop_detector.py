"""BackpropDetector: the same blocks, chained and trained end to end (5.1, D.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowdet.detection.boxes import grid_boxes
from flowdet.detection.build import (
    build_blocks,
    build_denoising,
    build_query_positions,
    build_shared_parts,
)
from flowdet.detection.denoising import Denoising
from flowdet.detection.layer_losses import layer_losses
from flowdet.detection.proposals import PROPOSAL_TENSORS, ProposalNetwork, propose
from flowdet.detection.set_detector import SetDetector
from flowdet.detection.stability import Refinement
from flowdet.detection.targets import Targets
from flowdet.detection.tokens import ImageTokens
from flowdet.detection.transformer_block import QueryPosition
from flowdet.flow import features_for_copies


@META_ARCH_REGISTRY.register()
class BackpropDetector(SetDetector):
    """The baseline: learned queries pass through T blocks in sequence, trained end to end.

    It has every part of `FlowMatchingDetector` except the noise, the time embedding, the target
    embeddings and the blocks' input for the previous estimate.

    Args:
        blocks: T flow blocks that are not self-conditioned. The output of each is added to the
            queries.
        queries: learned initial queries, [M, d].
        query_position: maps the queries [B, M, d] to their positional encodings; None for none.
        auxiliary_losses: every layer has a loss, not only the last (as in DETR).
        detach_layers: no gradient passes from a layer to the previous layers. This separates the
            effect of block-local training from the effect of flow matching.
        checkpoint_blocks: recompute the blocks' activations in the backward pass (gradient
            checkpointing).
        denoising: makes denoising queries in training; None for none. They pass through all layers.
        proposal_network: finds proposals for denoising queries in training; None for none.
        parts: the arguments of `SetDetector`.

    Raises:
        ValueError: `detach_layers` without `auxiliary_losses`.
    """

    training_tensors = PROPOSAL_TENSORS

    @configurable
    def __init__(
        self,
        *,
        blocks: Iterable[nn.Module],
        queries: nn.Parameter,
        query_position: Callable[[Tensor], QueryPosition] | None,
        auxiliary_losses: bool,
        detach_layers: bool,
        checkpoint_blocks: bool,
        denoising: Denoising | None = None,
        proposal_network: ProposalNetwork | None = None,
        **parts,
    ):
        super().__init__(**parts)
        if detach_layers and not auxiliary_losses:
            raise ValueError(
                "MODEL.FLOW_DET.DETACH_LAYERS leaves all layers but the last without gradient: it "
                "needs MODEL.FLOW_DET.AUXILIARY_LOSSES True"
            )
        self.blocks = nn.ModuleList(blocks)
        self.queries = queries
        self.query_position = query_position
        self.auxiliary_losses = auxiliary_losses
        self.block_weights = self.criterion.weights.per_block(len(self.blocks))
        self.detach_layers = detach_layers
        self.checkpoint_blocks = checkpoint_blocks
        self.denoising = denoising
        self.proposal_network = proposal_network

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg = cfg.MODEL.FLOW_DET
        shared = build_shared_parts(cfg)
        heads = shared["heads"]
        start = torch.randn(flow_cfg.NUM_QUERIES, flow_cfg.HIDDEN_DIM)
        if flow_cfg.ANCHORED_QUERIES:
            start = heads.embed(grid_boxes(flow_cfg.NUM_QUERIES))
        return {
            **shared,
            "blocks": build_blocks(flow_cfg, self_conditioned=False),
            "queries": nn.Parameter(start),
            "query_position": build_query_positions(flow_cfg, shared["neck"].encoding, heads),
            "auxiliary_losses": flow_cfg.AUXILIARY_LOSSES,
            "detach_layers": flow_cfg.DETACH_LAYERS,
            "checkpoint_blocks": flow_cfg.CHECKPOINT_BLOCKS,
            **build_denoising(cfg, shared),
        }

    @property
    def trajectory_times(self) -> list[float]:
        return [k / len(self.blocks) for k in range(1, len(self.blocks) + 1)]

    def layers(self, tokens: ImageTokens, z: Tensor | None = None) -> list[Tensor]:
        """Returns the queries after every block, T tensors [B, M, d].

        Args:
            tokens: image tokens.
            z: the initial queries, [B, M, d]; the learned ones by default.
        """
        z = self._start(tokens) if z is None else z
        layers = []
        for block in self.blocks:
            z = z + self._correction(block, z, tokens)
            layers.append(z)
            if self.detach_layers:
                z = z.detach()
        return layers

    def _start(self, tokens: ImageTokens) -> Tensor:
        return self.queries.expand(tokens.tokens.shape[0], -1, -1)

    def _correction(self, block: nn.Module, z: Tensor, tokens: ImageTokens) -> Tensor:
        """Returns the output of a block, which is added to the queries."""
        position = self.query_position(z) if self.query_position else None
        no_time = z.new_zeros(z.shape[0], z.shape[-1])
        arguments = (z, no_time, tokens, None, position)
        if self.checkpoint_blocks and self.training:
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """Sums the losses of all layers; without `auxiliary_losses` only the last has losses.

        The losses of the proposal network are further entries.
        """
        proposals = propose(self.proposal_network, tokens, targets)
        z, denoised = self._start(tokens), None
        if self.denoising:
            _, moved, denoised = self.denoising.queries(z, targets, proposals.boxes)
            z = torch.cat([z, moved], dim=1)
        layers = self.layers(tokens, z)
        first = 0 if self.auxiliary_losses else len(layers) - 1
        losses = layer_losses(self, layers, self.block_weights, targets, first, denoised)
        return losses | proposals.losses

    def refine(self, tokens: ImageTokens, trajectory: bool = False) -> Refinement:
        """Returns the queries after the last block, or with `trajectory` after every block."""
        layers = self.layers(tokens)
        before = [self._start(tokens), *layers][-2]

        def rerun(z: Tensor) -> Tensor:
            rows = z.flatten(0, 1)
            features = features_for_copies(self.blocks[-1], tokens, len(rows), z.shape[1])
            return z + self._correction(self.blocks[-1], rows, features).view_as(z)

        return Refinement(layers if trajectory else layers[-1:], before, rerun)

    def state_trajectory(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """Returns T + 1 times, the learned queries at t = 0, and the queries after every block."""
        times = [0.0, *self.trajectory_times]
        return times, [self._start(tokens), *self.layers(tokens)]
