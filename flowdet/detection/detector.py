"""FlowMatchingDetector: object detection as transport of noisy queries (3, A.1, A.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from flowdet.detection.build import build_flow, build_shared_parts
from flowdet.detection.criterion import SetCriterion
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.losses import BlockLosses
from flowdet.detection.matcher import HungarianMatcher, solve_assignment
from flowdet.detection.neck import TokenNeck, merge_tokens
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.targets import TargetEmbedding, Targets
from flowdet.flow import (
    FlowEnsemble,
    HalfPrecisionScale,
    ImageTokens,
    StateSettings,
    block_local_losses,
    blocks_to_train,
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
class FlowMatchingDetector(nn.Module):
    """A detector whose T flow blocks carry noise to class + box embeddings.

    Args:
        backbone: any detectron2 backbone.
        in_features: names of the feature maps it is read at.
        neck: feature maps to image tokens.
        flow: the T blocks.
        heads: decode embeddings; shared by all blocks.
        target_embedding: encodes the ground truth.
        matcher, criterion: the detection loss.
        postprocess: decoded queries to detections.
        num_queries: M, the most objects that an image may have.
        states: on which states the blocks learn.
        coupling: which query an object's target goes to, for interpolated states: `ordered`,
            `random` or `optimal_transport`.
        schedule: `joint` or `alternate`.
        pass_length: iterations in one pass over the data, for `alternate`.
        noise_scale: standard deviation of z_0.
        flow_weight: of the flow loss, against the detection loss.
        inference_mode, num_steps, single_step_block: see `flowdet.flow.solve`.
        noise_seed: of z_0 at inference, which is the same for every image, so that what is
            found in an image does not depend on the others in its batch.
        feature_cache_gib: memory in which the features of a frozen backbone are kept, so that
            each image passes it once; 0 for none.
        pixel_mean, pixel_std: per channel, in the order of `input_format`.
        input_format: "RGB" or "BGR".
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        neck: TokenNeck,
        flow: FlowEnsemble,
        heads: DetectionHeads,
        target_embedding: TargetEmbedding,
        matcher: HungarianMatcher,
        criterion: SetCriterion,
        postprocess: PostProcessor,
        num_queries: int,
        states: StateSettings,
        coupling: str,
        schedule: str,
        pass_length: int,
        noise_scale: float,
        flow_weight: float,
        inference_mode: str,
        num_steps: int,
        single_step_block: int,
        noise_seed: int,
        feature_cache_gib: float = 0.0,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
    ):
        super().__init__()
        if coupling not in COUPLINGS:
            raise ValueError(f"unknown coupling {coupling!r}: use one of {sorted(COUPLINGS)}")
        check_mode(inference_mode, num_steps, single_step_block, flow.num_blocks)
        blocks_to_train(schedule, flow.num_blocks, 0)
        self.backbone = backbone
        self.in_features = list(in_features)
        self.neck = neck
        self.flow = flow
        self.heads = heads
        self.target_embedding = target_embedding
        self.matcher = matcher
        self.criterion = criterion
        self.postprocess = postprocess
        self.num_queries = num_queries
        self.states = states
        self.couple = COUPLINGS[coupling]
        self.schedule = schedule
        self.pass_length = pass_length
        self.noise_scale = noise_scale
        self.flow_weight = flow_weight
        self.inference_mode = inference_mode
        self.num_steps = num_steps
        self.single_step_block = single_step_block
        self.noise_seed = noise_seed
        self.input_format = input_format
        self.half_scale = HalfPrecisionScale()
        self.feature_cache = None
        if feature_cache_gib:
            FeatureCache.check(backbone)
            self.feature_cache = FeatureCache(feature_cache_gib)
            backbone.register_load_state_dict_post_hook(lambda *_: self.feature_cache.clear())
        self.warned_of_dropped = False
        # the blocks that learned in the last iteration
        self.learning: list[int] = []
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        # counts training iterations, so that `alternate` goes on where it was after a resume
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

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
            "states": StateSettings(
                flow_cfg.TRAINING_STATES,
                flow_cfg.TIME_DISTRIBUTION,
                flow_cfg.TIME_ZERO_SHARE,
                flow_cfg.MAX_ROLL_STEPS,
            ),
            "coupling": flow_cfg.COUPLING,
            "schedule": flow_cfg.SCHEDULE,
            "pass_length": flow_cfg.PASS_LENGTH,
            "noise_scale": flow_cfg.NOISE_SCALE,
            "flow_weight": flow_cfg.FLOW_WEIGHT,
            "inference_mode": flow_cfg.INFERENCE_MODE,
            "num_steps": flow_cfg.NUM_STEPS or flow_cfg.NUM_BLOCKS,
            "single_step_block": flow_cfg.SINGLE_STEP_BLOCK,
            "noise_seed": flow_cfg.NOISE_SEED,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """detectron2's contract: dicts with `image` [C, H, W] and, in training, `instances`.

        Returns:
            In training the losses, to be summed with equal weight; else, for every image,
            `{"instances": Instances}` as `PostProcessor` describes.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = self.prepare_targets(batched_inputs)
        losses = self.losses(self.encode(batched_inputs), targets)
        self.iterations += 1
        return losses

    def prepare_targets(self, batched_inputs: list[dict]) -> Targets:
        """The padded ground truth of a batch; warns once of images with too many objects."""
        targets = Targets.from_instances(
            [x["instances"].to(self.device) for x in batched_inputs],
            self.num_queries,
            self.criterion.num_classes,
        )
        dropped = sum(count for _, count in targets.dropped)
        _log_scalars({"objects_dropped": torch.tensor(dropped)})
        if targets.dropped and not self.warned_of_dropped:
            self.warned_of_dropped = True
            image, count = targets.dropped[0]
            logging.getLogger(__name__).warning(
                "image %s has %d objects more than MODEL.FLOW_DET.NUM_QUERIES = %d: the largest "
                "are kept. Said once; `objects_dropped` in the metrics counts all",
                batched_inputs[image].get("image_id", batched_inputs[image].get("file_name")),
                count,
                self.num_queries,
            )
        return targets

    def encode(self, batched_inputs: list[dict]) -> ImageTokens:
        """Images to tokens. Training pads the batch; inference runs images of one size
        together, so that no image sees another one's padding."""
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        if self.training:
            return self._encode_batch(images)
        groups: dict[torch.Size, list[int]] = {}
        for i, image in enumerate(images):
            groups.setdefault(image.shape, []).append(i)
        encoded = [self._encode_batch([images[i] for i in group]) for group in groups.values()]
        return merge_tokens(encoded, sum(groups.values(), []))

    def _encode_batch(self, images: list[Tensor]) -> ImageTokens:
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        cache = self.feature_cache
        features = cache(self.backbone, batch.tensor) if cache else self.backbone(batch.tensor)
        maps = [features[name] for name in self.in_features]
        return self.neck(maps, batch.image_sizes, tuple(batch.tensor.shape[-2:]))

    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """The summed losses of the blocks that learn in this iteration (eq. 19)."""
        embeddings = self.target_embedding(targets)
        z_0 = self.noise_scale * torch.randn(
            len(targets.counts), self.num_queries, embeddings.shape[-1], device=self.device
        )
        block_losses = BlockLosses(self, tokens, targets, z_0)
        self.learning = blocks_to_train(self.schedule, self.flow.num_blocks, self._passes())
        losses = block_local_losses(
            block_losses,
            self.learning,
            [tokens.tokens, embeddings],
            [*self.flow.parameters(), *self.heads.parameters()],
            half_scale=self.half_scale if _autocasts_to_half(self.device) else None,
        )
        _log_scalars(block_losses.watched)
        return losses

    def _passes(self) -> int:
        """Complete passes over the data so far; 0 where it does not matter."""
        if self.schedule != "alternate":
            return 0
        if self.pass_length < 1:
            raise ValueError(
                "MODEL.FLOW_DET.SCHEDULE alternate needs PASS_LENGTH, the iterations in a pass "
                "over the data (flowdet.engine.resolve_config takes it from the dataset)"
            )
        return int(self.iterations) // self.pass_length

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict], trajectory: bool = False) -> list[dict]:
        """Detections of a batch of any size, in the current inference mode.

        Args:
            batched_inputs: dicts with `image` and optionally the original `height`, `width`.
            trajectory: also return `trajectory`, the `Instances` that the estimate after
                every step decodes to.
        """
        tokens = self.encode(batched_inputs)
        solution = solve(
            self.flow,
            self.initial_noise(len(batched_inputs)),
            tokens,
            self.inference_mode,
            num_steps=self.num_steps,
            block=self.single_step_block,
            trajectory=trajectory,
        )
        results = [{"instances": x} for x in self.detections(solution.z_1, batched_inputs)]
        if trajectory:
            steps = [self.detections(z, batched_inputs) for z in solution.estimates]
            for result, *instances in zip(results, *steps, strict=True):
                result["trajectory"] = instances
        return results

    def initial_noise(self, batch: int) -> Tensor:
        """z_0 at inference, [B, M, d]: the same for every image."""
        generator = torch.Generator().manual_seed(self.noise_seed)
        dim = self.target_embedding.classes.embedding_dim
        noise = torch.randn(1, self.num_queries, dim, generator=generator)
        return (self.noise_scale * noise).to(self.device).expand(batch, -1, -1)

    def detections(self, z: Tensor, batched_inputs: list[dict]) -> list[Instances]:
        """Decodes embeddings [B, M, d] to the detections of every image."""
        logits, boxes = self.heads(z)
        results = []
        for i, x in enumerate(batched_inputs):
            size = tuple(x["image"].shape[-2:])
            output_size = (x.get("height", size[0]), x.get("width", size[1]))
            results.append(self.postprocess(logits[i], boxes[i], size, output_size))
        return results


def _autocasts_to_half(device: torch.device) -> bool:
    if not torch.is_autocast_enabled(device.type):
        return False
    return torch.get_autocast_dtype(device.type) == torch.float16


def _log_scalars(scalars: dict[str, Tensor]) -> None:
    """To the trainer's event storage, where there is one, with one copy to the host."""
    if has_event_storage() and scalars:
        values = torch.stack([x.float() for x in scalars.values()]).tolist()
        get_event_storage().put_scalars(**dict(zip(scalars, values, strict=True)))
