"""FlowMatchingDetector: object detection as transport of noisy queries (3, A.1, A.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from flowdet.config import state_settings
from flowdet.detection.base import SetDetector
from flowdet.detection.build import build_flow, build_shared_parts
from flowdet.detection.criterion import block_weights
from flowdet.detection.losses import BlockLosses
from flowdet.detection.matcher import solve_assignment
from flowdet.detection.stability import Transport
from flowdet.detection.targets import TargetEmbedding, Targets
from flowdet.events import log_scalars
from flowdet.flow import (
    INFERENCE_MODES,
    FlowEnsemble,
    ImageTokens,
    LocalTraining,
    Solution,
    StateSettings,
    StatesMaker,
    make_states,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
    solve,
)
from flowdet.flow.solvers import check_mode

COUPLINGS = {
    "ordered": ordered_coupling,
    "random": random_coupling,
    "optimal_transport": optimal_transport_coupling(solve_assignment),
}


@META_ARCH_REGISTRY.register()
class FlowMatchingDetector(SetDetector):
    """A detector whose T flow blocks carry noise to class + box embeddings.

    Args:
        flow: the T blocks.
        target_embedding: encodes the ground truth.
        states: on which states the blocks learn.
        coupling: which query an object's target goes to, for interpolated states: `ordered`,
            `random` or `optimal_transport`.
        schedule: `joint` or `alternate`.
        pass_length: iterations in one pass over the data, for `alternate`.
        noise_scale: standard deviation of z_0.
        flow_weight: of the flow loss, against the detection loss.
        first_block_weight: of the first block's losses, see `block_weights`.
        start_weight: of the losses at t = 0 that `states.learn_at_start` adds.
        inference_mode, num_steps, single_step_block: see `flowdet.flow.solve`.
        early_exit: an image takes no more steps once no box moves by more than this share of the
            image's side; 0 is off.
        noise_seed: of z_0 at inference, which is the same for every image, so that what is
            found in an image does not depend on the others in its batch.
        parts: those of `SetDetector`.
    """

    @configurable
    def __init__(
        self,
        *,
        flow: FlowEnsemble,
        target_embedding: TargetEmbedding,
        states: StateSettings,
        coupling: str,
        schedule: str,
        pass_length: int,
        noise_scale: float,
        flow_weight: float,
        first_block_weight: float,
        start_weight: float,
        inference_mode: str,
        num_steps: int,
        single_step_block: int,
        early_exit: float,
        noise_seed: int,
        **parts,
    ):
        super().__init__(**parts)
        if coupling not in COUPLINGS:
            raise ValueError(f"unknown coupling {coupling!r}: use one of {sorted(COUPLINGS)}")
        check_mode(inference_mode, num_steps, single_step_block, flow.num_blocks)
        if self.stability is not None and flow.start is None:
            raise ValueError(
                "MODEL.FLOW_DET.STABILITY_DRAWS puts noise on the estimate that the last step "
                "starts from: it needs MODEL.FLOW_DET.ANCHORED_QUERIES True"
            )
        if start_weight <= 0:
            raise ValueError(
                f"MODEL.FLOW_DET.START_WEIGHT must be above 0, got {start_weight}: set "
                "LEARN_AT_START False if nothing is to be learned at t = 0"
            )
        if early_exit < 0:
            raise ValueError(f"MODEL.FLOW_DET.EARLY_EXIT is negative: {early_exit}")
        self.flow = flow
        self.local = LocalTraining(flow.num_blocks, schedule, pass_length)
        self.target_embedding = target_embedding
        self.states = states
        self.couple = COUPLINGS[coupling]
        self.noise_scale = noise_scale
        self.flow_weight = flow_weight
        self.block_weights = block_weights(first_block_weight, flow.num_blocks)
        self.start_weight = start_weight
        self.inference_mode = inference_mode
        self.num_steps = num_steps
        self.single_step_block = single_step_block
        self.early_exit = early_exit
        self.noise_seed = noise_seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg = cfg.MODEL.FLOW_DET
        shared = build_shared_parts(cfg)
        return {
            **shared,
            "flow": build_flow(flow_cfg, shared["neck"].code, shared["heads"]),
            "target_embedding": TargetEmbedding(
                flow_cfg.NUM_CLASSES,
                flow_cfg.HIDDEN_DIM,
                flow_cfg.NORMALIZE_TARGET,
                flow_cfg.LEARN_TARGET,
            ),
            "states": state_settings(flow_cfg, walk_trains_features=True),
            "coupling": flow_cfg.COUPLING,
            "schedule": flow_cfg.SCHEDULE,
            "pass_length": flow_cfg.PASS_LENGTH,
            "noise_scale": flow_cfg.NOISE_SCALE,
            "flow_weight": flow_cfg.FLOW_WEIGHT,
            "first_block_weight": flow_cfg.FIRST_BLOCK_WEIGHT,
            "start_weight": flow_cfg.START_WEIGHT,
            "inference_mode": flow_cfg.INFERENCE_MODE,
            "num_steps": flow_cfg.NUM_STEPS or flow_cfg.NUM_BLOCKS,
            "single_step_block": flow_cfg.SINGLE_STEP_BLOCK,
            "early_exit": flow_cfg.EARLY_EXIT,
            "noise_seed": flow_cfg.NOISE_SEED,
        }

    @property
    def trajectory_times(self) -> list[float]:
        many = INFERENCE_MODES[self.inference_mode].many_steps
        return self.flow.times(self.num_steps if many else 1)[1:]

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """The summed losses of the blocks that learn in this iteration (eq. 19)."""
        block_losses, inputs = self.block_losses(tokens, targets)
        parameters = [*self.flow.parameters(), *self.heads.parameters()]
        losses = self.local.losses(block_losses, inputs, parameters)
        log_scalars(block_losses.watched)
        return losses

    def block_losses(
        self, tokens: ImageTokens, targets: Targets, make: StatesMaker = make_states
    ) -> tuple[BlockLosses, list[Tensor]]:
        """The losses of the single blocks on states that `make` makes, and what they take."""
        embeddings = self.target_embedding(targets)
        z_0 = self.noise_scale * torch.randn(
            len(targets.counts), self.num_queries, embeddings.shape[-1], device=self.device
        )
        return BlockLosses(self, tokens, targets, z_0, make), [tokens.tokens, embeddings]

    def transport(
        self, tokens: ImageTokens, trajectory: bool = False, z_0: Tensor | None = None
    ) -> Transport:
        """From noise to z_1, or over the estimate of it after every step, which the last reaches.
        `z_0` is the noise [B, M, d]; by default `initial_noise`."""
        z_0 = self.initial_noise(len(tokens.tokens)) if z_0 is None else z_0
        transport = self.transport_of(self.walk(tokens, z_0, trajectory))
        # after an early exit nothing moves any more
        wanted = len(self.trajectory_times) if trajectory else 1
        missing = wanted - len(transport.estimates)
        return transport._replace(estimates=transport.estimates + [transport.z_1] * missing)

    @staticmethod
    def transport_of(solution: Solution) -> Transport:
        """A walk as what `transport` gives, with the trajectory if it was kept."""
        last, ask = solution.last, solution.ask
        return Transport(
            [*solution.estimates[:-1], solution.z_1],
            last.estimate,
            lambda estimate: ask(replace(last, estimate=estimate)),
        )

    def visited_states(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """z_t of the transport, from the noise at t = 0 to z_1."""
        solution = self.walk(tokens, self.initial_noise(len(tokens.tokens)), trajectory=True)
        # after an early exit the way left leads straight to the estimate
        way = [(t, z) for t, z in zip(solution.times, solution.states) if t < 1]
        return [*(t for t, _ in way), 1.0], [*(z for _, z in way), solution.z_1]

    def block_estimates(self, tokens: ImageTokens) -> Tensor:
        """What each of the blocks says of z_1 at the state from which the last step of the
        transport is made, [T, B, M, d]."""
        state = self.walk(tokens, self.initial_noise(len(tokens.tokens))).last
        blocks = range(self.flow.num_blocks)
        return torch.stack([self.flow.predict(k, state, tokens).z1_hat for k in blocks])

    def walk(self, tokens: ImageTokens, z_0: Tensor, trajectory: bool = False) -> Solution:
        """The transport of `z_0` [B, M, d] in the current inference mode."""
        return solve(
            self.flow,
            z_0,
            tokens,
            self.inference_mode,
            num_steps=self.num_steps,
            block=self.single_step_block,
            settled=self._settled if self.early_exit else None,
            trajectory=trajectory,
        )

    def _settled(self, before: Tensor, after: Tensor) -> Tensor:
        """Whether no box of an image, of those that could be reported, moves any more, [B]."""
        moved = (self.heads.boxes(after) - self.heads.boxes(before)).abs().amax(dim=-1)
        scores = self.heads.classes(after).float().softmax(dim=-1)[..., :-1].amax(dim=-1)
        moved = moved.masked_fill(scores <= self.postprocess.score_threshold, 0)
        return moved.amax(dim=1) <= self.early_exit

    def initial_noise(self, batch: int, seed: int | None = None) -> Tensor:
        """z_0 at inference, [B, M, d]: the same for every image; by `noise_seed`, if no other
        seed is given."""
        generator = torch.Generator().manual_seed(self.noise_seed if seed is None else seed)
        dim = self.target_embedding.classes.embedding_dim
        noise = torch.randn(1, self.num_queries, dim, generator=generator)
        return (self.noise_scale * noise).to(self.device).expand(batch, -1, -1)
