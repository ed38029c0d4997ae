"""FlowMatchingDetector: a DETR-style detector whose decoder blocks are trained by flow matching.

Each block has its own loss (sections 3, A.1, A.3).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor

from flowdet.config import inference_settings, state_settings
from flowdet.detection.block_losses import BlockLosses
from flowdet.detection.build import build_denoising, build_flow, build_shared_parts
from flowdet.detection.compiled_steps import run_compiled
from flowdet.detection.denoising import Denoising
from flowdet.detection.matcher import solve_assignment
from flowdet.detection.proposals import PROPOSAL_TENSORS, ProposalNetwork, propose
from flowdet.detection.set_detector import SetDetector
from flowdet.detection.stability import Refinement
from flowdet.detection.targets import TargetEmbedding, Targets
from flowdet.detection.tokens import ImageTokens
from flowdet.events import log_scalars, warn_of_untrained_blocks
from flowdet.flow import (
    INFERENCE_MODES,
    FlowEnsemble,
    FlowState,
    InferenceSettings,
    LocalTraining,
    Solution,
    StateSettings,
    TrainingStatesFactory,
    inference_noise,
    make_training_states,
    optimal_transport_coupling,
    ordered_coupling,
    random_coupling,
    solve,
    training_noise,
)

COUPLINGS = {
    "ordered": ordered_coupling,
    "random": random_coupling,
    "optimal_transport": optimal_transport_coupling(solve_assignment),
}

BLOCK_EXECUTIONS = ("sequential", "parallel")


@META_ARCH_REGISTRY.register()
class FlowMatchingDetector(SetDetector):
    """A detector whose T flow blocks map noise to embeddings of class and box.

    Args:
        flow: the T blocks.
        target_embedding: encodes the ground truth as z_1.
        states: how the training states of the blocks are made.
        coupling: how targets are assigned to queries in interpolated states: `ordered`, `random` or
            `optimal_transport`.
        schedule: `joint` or `alternate`, see `blocks_to_train`.
        iters_per_epoch: iterations per epoch, for `alternate`.
        noise_scale: standard deviation of z_0.
        denoising: makes denoising queries in training; None for none.
        proposal_network: finds proposals for denoising queries in training; None for none.
        settings: inference mode, early exit and seed of z_0. Early exit: an image takes no more
            steps once no box moves by more than this fraction of the image's side. z_0 is the same
            for every image, so that results do not depend on the batch.
        block_execution: `sequential`: one block after another, with the activations of one block in
            memory; `parallel`: all blocks as one batched computation, where no state depends on
            another block.
        compile_steps: compile the steps and the box stability at inference.
        parts: the arguments of `SetDetector`.

    Raises:
        ValueError: a setting is unknown, out of range, or needs another setting.
    """

    training_tensors = PROPOSAL_TENSORS

    @configurable
    def __init__(
        self,
        *,
        flow: FlowEnsemble,
        target_embedding: TargetEmbedding,
        states: StateSettings,
        coupling: str,
        schedule: str,
        iters_per_epoch: int,
        noise_scale: float,
        settings: InferenceSettings,
        compile_steps: bool = False,
        denoising: Denoising | None = None,
        proposal_network: ProposalNetwork | None = None,
        block_execution: str = "sequential",
        **parts,
    ):
        super().__init__(**parts)
        _check_execution(block_execution, states)
        if coupling not in COUPLINGS:
            raise ValueError(
                f"unknown MODEL.FLOW_DET.COUPLING {coupling!r}: use one of {sorted(COUPLINGS)}"
            )
        settings.plan.check(flow.num_blocks)
        if self.stability is not None and flow.start is None:
            raise ValueError(
                "MODEL.FLOW_DET.STABILITY_SAMPLES perturbs the estimate before the last step: it "
                "needs MODEL.FLOW_DET.ANCHORED_QUERIES True"
            )
        self.flow = flow
        self.local = LocalTraining(flow.num_blocks, schedule, iters_per_epoch)
        self.target_embedding = target_embedding
        self.states = states
        self.coupling = COUPLINGS[coupling]
        self.noise_scale = noise_scale
        self.settings = settings
        self.compile_steps = compile_steps
        self.denoising = denoising
        self.proposal_network = proposal_network
        self.block_execution = block_execution

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg = cfg.MODEL.FLOW_DET
        shared = build_shared_parts(cfg)
        return {
            **shared,
            "flow": build_flow(flow_cfg, shared["neck"].encoding, shared["heads"]),
            "target_embedding": TargetEmbedding(
                flow_cfg.NUM_CLASSES,
                flow_cfg.HIDDEN_DIM,
                flow_cfg.NORMALIZE_TARGET,
                flow_cfg.LEARN_TARGET,
            ),
            "states": state_settings(flow_cfg),
            "coupling": flow_cfg.COUPLING,
            "schedule": flow_cfg.SCHEDULE,
            "iters_per_epoch": flow_cfg.ITERS_PER_EPOCH,
            "noise_scale": flow_cfg.NOISE_SCALE,
            "settings": inference_settings(flow_cfg),
            "compile_steps": cfg.TEST.COMPILE,
            "block_execution": flow_cfg.BLOCK_EXECUTION,
            **build_denoising(cfg, shared),
        }

    @property
    def trajectory_times(self) -> list[float]:
        plan = self.settings.plan
        return self.flow.times(plan.num_steps if INFERENCE_MODES[plan.mode].has_steps else 1)[1:]

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """Computes the losses of the blocks that are trained in this iteration, summed (eq. 19).

        The losses of the proposal network are further entries.
        """
        proposals = propose(self.proposal_network, tokens, targets)
        block_losses, inputs = self.block_losses(tokens, targets, proposals=proposals.boxes)
        if self.block_execution == "parallel":
            losses = block_losses.in_parallel(self.local.next_blocks(), inputs)
        else:
            parameters = [*self.flow.parameters(), *self.heads.parameters()]
            losses = self.local.losses(block_losses, inputs, parameters)
        log_scalars(block_losses.statistics, block_losses.means)
        return losses | proposals.losses

    def block_losses(
        self,
        tokens: ImageTokens,
        targets: Targets,
        make: TrainingStatesFactory = make_training_states,
        proposals: Tensor | None = None,
    ) -> tuple[BlockLosses, list[Tensor]]:
        """Returns the loss function of the blocks for one batch, and its inputs.

        Args:
            tokens: image tokens.
            targets: the objects.
            make: makes the training states.
            proposals: boxes for denoising queries, [B, P, 4], normalized cxcywh; None for none.

        Returns:
            The loss function, called as `block_losses(block, inputs)`; and its inputs, the token
            vectors [B, N, d] and the target embeddings [B, G + 1, d].
        """
        embeddings = self.target_embedding(targets)
        shape = (len(targets.counts), self.num_queries, embeddings.shape[-1])
        z_0 = training_noise(shape, self.noise_scale, self.device)
        block_losses = BlockLosses(
            flow=self.flow,
            heads=self.heads,
            matcher=self.matcher,
            criterion=self.criterion,
            settings=self.states,
            coupling=self.coupling,
            shared_matching=self.matching == "shared",
            tokens=tokens,
            targets=targets,
            z_0=z_0,
            denoising=self.denoising,
            proposals=proposals,
            make=make,
        )
        return block_losses, [tokens.tokens, embeddings]

    def inference(self, batched_inputs: list[dict], *args, **kwargs) -> list[dict]:
        """See `SetDetector.inference`.

        Warns once if the inference mode evaluates blocks at t = 0 that were never trained there.
        """
        warn_of_untrained_blocks(
            self.settings.plan, self.states, self.flow.num_blocks, "MODEL.FLOW_DET"
        )
        return super().inference(batched_inputs, *args, **kwargs)

    def refine(
        self, tokens: ImageTokens, trajectory: bool = False, z_0: Tensor | None = None
    ) -> Refinement:
        """Computes z_1, or with `trajectory` the estimate of z_1 after every step.

        Args:
            tokens: image tokens.
            trajectory: return the estimates of all steps.
            z_0: noise, [B, M, d]; by default `initial_noise`.
        """
        z_0 = self.initial_noise(len(tokens.tokens)) if z_0 is None else z_0
        refinement = self.refinement_of(self.solve(tokens, z_0, trajectory))
        # after an early exit, the estimate stays the same
        num_steps = len(self.trajectory_times) if trajectory else 1
        missing = num_steps - len(refinement.estimates)
        return refinement._replace(estimates=refinement.estimates + [refinement.z_1] * missing)

    def step_detections(
        self, tokens: ImageTokens, batched_inputs: list[dict], trajectory: bool = False
    ) -> list[list[Instances]]:
        """See `SetDetector.step_detections`; with `compile_steps` the steps are compiled.

        A trajectory and an early exit are not: their graphs depend on the images.
        """
        if not self.compile_steps or trajectory or self.settings.early_exit:
            return super().step_detections(tokens, batched_inputs, trajectory)
        noise = self.initial_noise(len(tokens.tokens))
        z_1, factors = run_compiled(self, tokens, noise)
        return [self.detections(z_1, batched_inputs, factors)]

    @staticmethod
    def refinement_of(solution: Solution) -> Refinement:
        """Converts the result of a solver. It contains the trajectory if the solver kept it."""
        last = solution.last_state

        def rerun(estimates: Tensor) -> Tensor:
            state = last.repeat(estimates.shape[1])
            states = replace(state, estimate=estimates.flatten(0, 1))
            return solution.reevaluate(states).view_as(estimates)

        return Refinement([*solution.estimates[:-1], solution.z_1], last.estimate, rerun)

    def state_trajectory(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """Returns the times and states z_t of the solver, from the noise at t = 0 to z_1."""
        noise = self.initial_noise(len(tokens.tokens))
        return self.states_of(self.solve(tokens, noise, trajectory=True))

    @staticmethod
    def states_of(solution: Solution) -> tuple[list[float], list[Tensor]]:
        """Returns the times from 0 to 1 and the states of a solution that kept its trajectory."""
        # after an early exit, the remaining path is a straight line to the estimate
        path = [(t, z) for t, z in zip(solution.times, solution.states) if t < 1]
        return [*(t for t, _ in path), 1.0], [*(z for _, z in path), solution.z_1]

    def block_estimates(self, tokens: ImageTokens, state: FlowState | None = None) -> Tensor:
        """Evaluates every block at a state, by default the state before the last step.

        Returns:
            The estimates of z_1, [T, B, M, d].
        """
        if state is None:
            state = self.solve(tokens, self.initial_noise(len(tokens.tokens))).last_state
        blocks = range(self.flow.num_blocks)
        return torch.stack([self.flow.predict(k, state, tokens).z1_hat for k in blocks])

    def solve(self, tokens: ImageTokens, z_0: Tensor, trajectory: bool = False) -> Solution:
        """Integrates from noise `z_0` [B, M, d] in the configured inference mode."""
        plan = self.settings.plan
        return solve(
            self.flow,
            z_0,
            tokens,
            plan.mode,
            num_steps=plan.num_steps,
            block=plan.block,
            converged=self._converged if self.settings.early_exit else None,
            trajectory=trajectory,
        )

    def _converged(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns whether all boxes of an image that could be reported have converged, [B].

        A box has converged if no coordinate (normalized cxcywh) changes by more than `early_exit`.
        """
        moved = (self.heads.boxes(after) - self.heads.boxes(before)).abs().amax(dim=-1)
        scores = self.heads.classes(after).float().softmax(dim=-1)[..., :-1].amax(dim=-1)
        moved = moved.masked_fill(scores <= self.postprocess.score_threshold, 0)
        return moved.amax(dim=1) <= self.settings.early_exit

    def initial_noise(self, batch: int, seed: int | None = None) -> Tensor:
        """Draws z_0 for inference, [B, M, d]. It is the same for every image.

        Args:
            batch: B.
            seed: by default the configured seed.
        """
        seed = self.settings.noise_seed if seed is None else seed
        shape = (self.num_queries, self.target_embedding.classes.embedding_dim)
        return inference_noise(shape, self.noise_scale, seed, batch, self.device)


def _check_execution(execution: str, states: StateSettings) -> None:
    if execution not in BLOCK_EXECUTIONS:
        raise ValueError(
            f"unknown MODEL.FLOW_DET.BLOCK_EXECUTION {execution!r}: use one of {BLOCK_EXECUTIONS}"
        )
    independent = states.kind == "interpolated" or states.learn_at_start
    if execution == "parallel" and not independent:
        raise ValueError(
            "MODEL.FLOW_DET.BLOCK_EXECUTION parallel needs TRAINING_STATES interpolated or "
            f"LEARN_AT_START True: with {states.kind} alone the state of a block depends on the "
            "previous block; write BLOCK_EXECUTION sequential"
        )
