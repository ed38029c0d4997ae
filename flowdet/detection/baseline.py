"""BackpropDetector: the same blocks, chained and trained end to end (5.1, D.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowdet.detection.base import SetDetector
from flowdet.detection.build import build_blocks, build_query_positions, build_shared_parts
from flowdet.detection.criterion import block_weights
from flowdet.detection.heads import grid_boxes
from flowdet.detection.stability import Transport
from flowdet.detection.targets import Targets
from flowdet.events import log_scalars
from flowdet.flow import ImageTokens, QueryPosition, add_losses


@META_ARCH_REGISTRY.register()
class BackpropDetector(SetDetector):
    """The baseline: learned queries pass T blocks in turn, gradients flow through all of them.

    Shares every part with `FlowMatchingDetector` but the noise, the time embedding, the target
    embeddings and the blocks' input for the previous estimate.

    Args:
        blocks: T blocks of `flowdet.flow`, not self-conditioned; each corrects the queries.
        queries: learned start, [M, d].
        query_position: maps the queries [B, M, d] to where they are; None for none.
        auxiliary_losses: every layer has a loss, not only the last one (as in DETR).
        first_block_weight: of the first layer's losses, see `block_weights`.
        detach_layers: no gradient passes from a layer to the ones before it: what block-local
            training alone costs, without the transport.
        checkpoint_blocks: compute the blocks' activations again in the backward pass instead
            of keeping them.
        parts: those of `SetDetector`.
    """

    @configurable
    def __init__(
        self,
        *,
        blocks: Iterable[nn.Module],
        queries: nn.Parameter,
        query_position: Callable[[Tensor], QueryPosition] | None,
        auxiliary_losses: bool,
        first_block_weight: float,
        detach_layers: bool,
        checkpoint_blocks: bool,
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
        self.block_weights = block_weights(first_block_weight, len(self.blocks))
        self.detach_layers = detach_layers
        self.checkpoint_blocks = checkpoint_blocks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg = cfg.MODEL.FLOW_DET
        shared = build_shared_parts(cfg)
        heads, anchored = shared["heads"], flow_cfg.ANCHORED_QUERIES
        start = torch.randn(flow_cfg.NUM_QUERIES, flow_cfg.HIDDEN_DIM)
        if anchored:
            start = heads.embed(grid_boxes(flow_cfg.NUM_QUERIES))
        return {
            **shared,
            "blocks": build_blocks(flow_cfg, self_conditioned=False),
            "queries": nn.Parameter(start),
            "query_position": build_query_positions(flow_cfg, shared["neck"].code, heads),
            "auxiliary_losses": flow_cfg.AUXILIARY_LOSSES,
            "first_block_weight": flow_cfg.FIRST_BLOCK_WEIGHT,
            "detach_layers": flow_cfg.DETACH_LAYERS,
            "checkpoint_blocks": flow_cfg.CHECKPOINT_BLOCKS,
        }

    @property
    def trajectory_times(self) -> list[float]:
        return [k / len(self.blocks) for k in range(1, len(self.blocks) + 1)]

    def layers(self, tokens: ImageTokens) -> list[Tensor]:
        """The queries after every block, T times [B, M, d]."""
        z = self._start(tokens)
        layers = []
        for block in self.blocks:
            z = z + self._change(block, z, tokens)
            layers.append(z)
            if self.detach_layers:
                z = z.detach()
        return layers

    def _start(self, tokens: ImageTokens) -> Tensor:
        return self.queries.expand(tokens.tokens.shape[0], -1, -1)

    def _change(self, block: nn.Module, z: Tensor, tokens: ImageTokens) -> Tensor:
        """What a block adds to the queries."""
        position = self.query_position(z) if self.query_position else None
        no_time = z.new_zeros(z.shape[0], z.shape[-1])
        arguments = (z, no_time, tokens, None, position)
        if self.checkpoint_blocks and self.training:
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """The loss of the last layer, and of the others if `auxiliary_losses`, summed by name."""
        layers = self.layers(tokens)
        normaliser = self.criterion.normaliser(targets, self.num_queries)
        first = 0 if self.auxiliary_losses else len(layers) - 1
        total: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        for k in range(first, len(layers)):
            logits, boxes = self.heads(layers[k])
            if k == first or self.assignment == "own":
                assigned = self.matcher(logits, boxes, targets)
            losses, stats = self.criterion(logits, boxes, targets, assigned, normaliser)
            losses = {name: self.block_weights[k] * loss for name, loss in losses.items()}
            add_losses(total, losses)
            for name, value in {**losses, **stats}.items():
                watched[f"block{k}/{name.removeprefix('loss_')}"] = value.detach()
        log_scalars(watched)
        return total

    def transport(self, tokens: ImageTokens, trajectory: bool = False) -> Transport:
        """The queries after the last block, or after every one."""
        layers = self.layers(tokens)
        before = [self._start(tokens), *layers][-2]
        return Transport(
            layers if trajectory else layers[-1:],
            before,
            lambda z: z + self._change(self.blocks[-1], z, tokens),
        )

    def visited_states(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """The learned queries, and what they are after every block."""
        times = [0.0, *self.trajectory_times]
        return times, [self._start(tokens), *self.layers(tokens)]
