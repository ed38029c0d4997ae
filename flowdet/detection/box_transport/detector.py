"""BoxTransportDetector: predicts objects from noisy boxes, by diffusion or flow matching.

It follows DiffusionDet (Chen et al. 2023, arXiv 2211.09788) and DeFloMat (arXiv 2512.22406).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from flowdet.detection.box_transport.paths import BoxPath, build_path
from flowdet.detection.box_transport.query_position import BoxQueryPosition
from flowdet.detection.box_transport.sampling import (
    SamplingSettings,
    SamplingStep,
    noise_source,
)
from flowdet.detection.box_transport.states import BoxScale, padded_boxes, renewed
from flowdet.detection.build import build_blocks, build_shared_parts
from flowdet.detection.layer_losses import layer_losses
from flowdet.detection.set_detector import SetDetector
from flowdet.detection.stability import Refinement
from flowdet.detection.targets import Targets
from flowdet.detection.tokens import ImageTokens
from flowdet.flow import PreparedFeatures, TimeEmbedding, training_noise, without_gradient

# The query embedding of a box does not decode to coordinates closer than this to 0 or 1, where the
# sigmoid of the box head has no gradient.
_MARGIN = 0.01


@META_ARCH_REGISTRY.register()
class BoxTransportDetector(SetDetector):
    """A decoder that predicts the objects from noisy boxes, trained end to end.

    Training: the objects of an image are padded to M boxes with random boxes. All boxes get noise
    of one random time t per image. The decoder gets the noisy boxes and t. Each of its layers has a
    detection loss.

    Inference: the boxes start as noise. In each of K steps the decoder predicts boxes, and a step
    of the path moves the noisy boxes toward them. The noise is the same for every image, so that
    results do not depend on the batch.

    A query is a box. Its first embedding is the one of least norm that the linear box head decodes
    to the box. Every block adds a correction to the embedding, and reads the image at the box that
    the embedding decodes to. These box coordinates pass no gradient to earlier layers, as in
    DiffusionDet; the embeddings do.

    Args:
        blocks: T blocks that are not self-conditioned, the layers of the decoder.
        time_embedding: maps times [B] to [B, d].
        query_position: maps boxes to positional encodings and sample points.
        path: the path from noise to boxes.
        scale: the scale of the boxes on the path.
        sampling: how boxes are sampled at inference.
        parts: the arguments of `SetDetector`.

    Raises:
        ValueError: more sampling steps than the path has.
    """

    @configurable
    def __init__(
        self,
        *,
        blocks: Iterable[nn.Module],
        time_embedding: TimeEmbedding,
        query_position: BoxQueryPosition,
        path: BoxPath,
        scale: BoxScale,
        sampling: SamplingSettings,
        **parts,
    ):
        super().__init__(**parts)
        path.check_steps(sampling.num_steps)
        self.blocks = nn.ModuleList(blocks)
        self.block_weights = self.criterion.weights.per_block(len(self.blocks))
        self.time_embedding = time_embedding
        self.query_position = query_position
        self.path = path
        self.scale = scale
        self.sampling = sampling

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg, own = cfg.MODEL.FLOW_DET, cfg.MODEL.BOX_TRANSPORT
        _check_anchored(flow_cfg)
        shared = build_shared_parts(cfg)
        dim = flow_cfg.HIDDEN_DIM
        return {
            **shared,
            "blocks": build_blocks(flow_cfg, self_conditioned=False),
            "time_embedding": TimeEmbedding(dim),
            "query_position": BoxQueryPosition(shared["neck"].encoding, dim, flow_cfg.BOX_SAMPLES),
            "path": build_path(own.PATH, own.NUM_TIMESTEPS, own.DDIM_ETA),
            "scale": BoxScale(own.SIGNAL_SCALE),
            "sampling": SamplingSettings(
                own.NUM_STEPS, flow_cfg.NOISE_SEED, own.BOX_RENEWAL, own.ENSEMBLE_STEPS
            ),
        }

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """Sums the losses of all layers on one noisy state per image."""
        boxes = padded_boxes(targets, self.num_queries, self.scale)
        t = self.path.training_times(len(boxes), self.device)
        state = self.path.state(training_noise(boxes.shape, 1.0, self.device), boxes, t)
        _, *layers = self.layers(self.scale.normalized(state), t, PreparedFeatures(tokens))
        return layer_losses(self, layers, self.block_weights, targets)

    def layers(self, boxes: Tensor, t: Tensor, features: PreparedFeatures) -> list[Tensor]:
        """Returns the query embeddings before the first block and after every block.

        Args:
            boxes: noisy boxes, [B, M, 4], normalized cxcywh.
            t: their times, [B].
            features: image tokens, for any number of calls.

        Returns:
            T + 1 tensors [B, M, d].
        """
        z, time = self._embed(boxes), self.time_embedding(t)
        layers = [z]
        for k, block in enumerate(self.blocks):
            own = features.of(k, block, z.shape[0], copies=1)
            z = z + block(z, time, own, None, self.query_position(boxes))
            layers.append(z)
            boxes = self._boxes_to_read(z)
        return layers

    def _embed(self, boxes: Tensor) -> Tensor:
        """Returns the embeddings [B, M, d] of boxes [B, M, 4], in float32."""
        with torch.autocast(boxes.device.type, enabled=False):
            return self.heads.embed(boxes.clamp(_MARGIN, 1 - _MARGIN))

    def _boxes_to_read(self, z: Tensor) -> Tensor:
        """Returns the boxes at which the next block reads the image, without gradient."""
        with without_gradient():
            return self.heads.boxes(z)

    def predict(self, boxes: Tensor, t: float, features: PreparedFeatures) -> SamplingStep:
        """Runs the decoder on noisy boxes [B, M, 4], normalized cxcywh, at time t."""
        times = torch.full((len(boxes),), t, device=boxes.device)
        *_, before, z = self.layers(boxes, times, features)
        refinement = Refinement([z], before, self._last_block(times, features))
        logits, pred_boxes = self.heads(z)
        scores = logits.softmax(dim=-1)[..., :-1].amax(dim=-1)
        return SamplingStep(boxes, refinement, pred_boxes, scores)

    def _last_block(self, times: Tensor, features: PreparedFeatures) -> Callable[[Tensor], Tensor]:
        """Returns the function that maps embeddings [B, S, M, d] to those after the last block."""

        def rerun(z: Tensor) -> Tensor:
            rows = z.flatten(0, 1)
            time = self.time_embedding(times.repeat_interleave(z.shape[1]))
            position = self.query_position(self._boxes_to_read(rows))
            last = len(self.blocks) - 1
            own = features.of(last, self.blocks[last], len(rows), copies=z.shape[1])
            return z + self.blocks[last](rows, time, own, None, position).view_as(z)

        return rerun

    def sample(self, tokens: ImageTokens) -> list[SamplingStep]:
        """Samples boxes in K steps from noise that is the same for every image."""
        draw = noise_source(
            self.sampling.noise_seed, len(tokens.tokens), self.num_queries, self.device
        )
        state, steps, features = draw(), [], PreparedFeatures(tokens)
        for t, t_next in pairwise(self.sampling.times):
            step = self.predict(self.scale.normalized(state), t, features)
            steps.append(step)
            state = self.path.step(state, self.scale.scaled(step.pred_boxes), t, t_next, draw())
            # random boxes as in training; on a diffusion path their state is Gaussian noise
            random = self.path.state(
                draw(), self.scale.clamped(draw()), state.new_full((len(state),), t_next)
            )
            state = renewed(state, step.scores, self.sampling.renewal_threshold, random)
        return steps

    def refine(self, tokens: ImageTokens, trajectory: bool = False) -> Refinement:
        """Returns the query embeddings of the last sampling step, or of every step."""
        refinements = [step.refinement for step in self.sample(tokens)]
        if not trajectory:
            return refinements[-1]
        return refinements[-1]._replace(estimates=[x.z_1 for x in refinements])

    def step_detections(
        self, tokens: ImageTokens, batched_inputs: list[dict], trajectory: bool = False
    ) -> list[list[Instances]]:
        """See `SetDetector.step_detections`.

        With `ensemble_steps` the final detections are those of all steps after non-maximum
        suppression. Then `pred_queries` is below M for queries of the last step, from M to 2M - 1
        for those of the step before, and so on.
        """
        refinements = [step.refinement for step in self.sample(tokens)]
        merged = refinements[::-1] if self.sampling.ensemble_steps else refinements[-1:]
        z = torch.cat([x.z_1 for x in merged], dim=1)
        factors = None
        if self.stability is not None:
            factors = torch.cat([self.stability_factors(x) for x in merged], dim=1)
        earlier = refinements[:-1] if trajectory else []
        return [
            *(self.detections(x.z_1, batched_inputs) for x in earlier),
            self.detections(z, batched_inputs, factors),
        ]

    @property
    def trajectory_times(self) -> list[float]:
        return self.sampling.times[1:]

    def state_trajectory(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """Returns K + 1 times, and the boxes with their objectness at these times, [B, M, 5].

        The boxes are normalized cxcywh. At t < 1 they are the noisy boxes that the decoder gets,
        with the objectness that the step before predicted (0 at t = 0). At t = 1 they are the
        predicted boxes.
        """
        steps = self.sample(tokens)
        predicted = [SetDetector.decode_states(self, x.refinement.z_1)[1] for x in steps]
        objectness = [torch.zeros_like(predicted[0]), *predicted]
        boxes = [*(step.boxes for step in steps), steps[-1].pred_boxes]
        states = [torch.cat([b, o[..., None]], -1) for b, o in zip(boxes, objectness, strict=True)]
        return self.sampling.times, states

    def decode_states(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the boxes [..., M, 4] and the objectness [..., M] of states [..., M, 5]."""
        return states[..., :4], states[..., 4]


def _check_anchored(flow_cfg: CfgNode) -> None:
    """Raises ValueError if the keys turn off what every query of this detector has: a box."""
    for key in ("ANCHORED_QUERIES", "BOX_ANCHORED_ATTENTION"):
        if not flow_cfg[key]:
            raise ValueError(
                f"MODEL.FLOW_DET.{key} is False, but the queries of a BoxTransportDetector are "
                f"boxes: set MODEL.FLOW_DET.{key} True"
            )
