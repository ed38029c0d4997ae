"""FlowMatchingDetector: object detection as transport of noisy queries (3, A.1, A.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from flowdet.detection.criterion import SetCriterion
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.heads import DetectionHeads, grid_boxes
from flowdet.detection.matcher import HungarianMatcher, solve_assignment
from flowdet.detection.neck import TokenNeck, merge_tokens
from flowdet.detection.position import QueryPositions, SineCode
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.targets import (
    TargetEmbedding,
    Targets,
    gather_targets,
    ordered_assignment,
)
from flowdet.flow import (
    FlowEnsemble,
    HalfPrecisionScale,
    ImageTokens,
    StateSettings,
    TimeEmbedding,
    TransformerFlowBlock,
    block_local_losses,
    blocks_to_train,
    couple,
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
        self.warned_of_dropped = False
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        # counts training iterations, so that `alternate` goes on where it was after a resume
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        flow_cfg = cfg.MODEL.FLOW_DET
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        missing = [name for name in flow_cfg.IN_FEATURES if name not in shapes]
        if missing:
            raise ValueError(
                f"MODEL.FLOW_DET.IN_FEATURES names {missing}, which the backbone does not have: "
                f"it has {sorted(shapes)}"
            )
        dim = flow_cfg.HIDDEN_DIM
        code = SineCode(dim, flow_cfg.POSITION_MAX_FREQUENCY)
        heads = DetectionHeads(dim, flow_cfg.NUM_CLASSES, flow_cfg.BOX_HEAD)
        costs = (flow_cfg.CLASS_WEIGHT, flow_cfg.BBOX_WEIGHT, flow_cfg.GIOU_WEIGHT)
        return {
            "backbone": backbone,
            "in_features": flow_cfg.IN_FEATURES,
            "neck": TokenNeck(
                [shapes[name] for name in flow_cfg.IN_FEATURES],
                dim,
                code,
                flow_cfg.NECK_NORM,
                flow_cfg.NECK_BLOCKS,
            ),
            "flow": build_flow(flow_cfg, code, heads),
            "heads": heads,
            "target_embedding": TargetEmbedding(
                flow_cfg.NUM_CLASSES, dim, flow_cfg.NORMALIZE_TARGET, flow_cfg.LEARN_TARGET
            ),
            "matcher": HungarianMatcher(*costs),
            "criterion": SetCriterion(flow_cfg.NUM_CLASSES, *costs, flow_cfg.BACKGROUND_WEIGHT),
            "postprocess": PostProcessor(
                flow_cfg.SCORE_THRESHOLD, flow_cfg.NMS_THRESHOLD, cfg.TEST.DETECTIONS_PER_IMAGE
            ),
            "num_queries": flow_cfg.NUM_QUERIES,
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
            "feature_cache_gib": flow_cfg.FEATURE_CACHE_GIB,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
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
        # the count is on the device: read it only where it matters
        passes = int(self.iterations) // self.pass_length if self.schedule == "alternate" else 0
        block_losses = _BlockLosses(self, tokens, targets, z_0)
        losses = block_local_losses(
            block_losses,
            blocks_to_train(self.schedule, self.flow.num_blocks, passes),
            [tokens.tokens, embeddings],
            [*self.flow.parameters(), *self.heads.parameters()],
            half_scale=self.half_scale if _autocasts_to_half(self.device) else None,
        )
        _log_scalars(block_losses.watched)
        return losses

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


class _BlockLosses:
    """`block_loss(k, features)` of one iteration, for `block_local_losses`."""

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
        with torch.no_grad():
            if model.states.kind == "interpolated":
                ordered = ordered_assignment(self.targets, model.num_queries)
                index = model.couple(self.z_0, gather_targets(embeddings, ordered))
                self.coupled = couple(ordered, index)
            if self.states.consensus is not None:
                self.assigned = model.matcher(*model.heads(self.states.consensus), self.targets)


def build_flow(flow_cfg: CfgNode, code: SineCode, heads: DetectionHeads) -> FlowEnsemble:
    """The flow ensemble of `MODEL.FLOW_DET`.

    Raises:
        ValueError: keys that need each other are not on together.
    """
    anchored = flow_cfg.ANCHORED_QUERIES
    if flow_cfg.BOX_ANCHORED_ATTENTION and not anchored:
        raise ValueError(
            "MODEL.FLOW_DET.BOX_ANCHORED_ATTENTION looks where the estimate's box is: it needs "
            "MODEL.FLOW_DET.ANCHORED_QUERIES True"
        )
    if (flow_cfg.SELF_CONDITIONING or flow_cfg.PREDICTION == "target") and not anchored:
        raise ValueError(
            "MODEL.FLOW_DET.SELF_CONDITIONING and PREDICTION target need a first estimate: set "
            "MODEL.FLOW_DET.ANCHORED_QUERIES True"
        )
    dim = flow_cfg.HIDDEN_DIM
    anchors = grid_boxes(flow_cfg.NUM_QUERIES)
    decode = heads.boxes if flow_cfg.BOX_ANCHORED_ATTENTION else None
    return FlowEnsemble(
        [
            TransformerFlowBlock(
                dim,
                flow_cfg.NUM_HEADS,
                flow_cfg.FEEDFORWARD_DIM,
                flow_cfg.DROPOUT,
                self_conditioned=flow_cfg.SELF_CONDITIONING,
                tie_position=flow_cfg.BOX_ANCHORED_ATTENTION,
            )
            for _ in range(flow_cfg.NUM_BLOCKS)
        ],
        TimeEmbedding(dim),
        prediction=flow_cfg.PREDICTION,
        start=nn.Parameter(heads.embed(anchors)) if anchored else None,
        query_position=QueryPositions(code, dim, anchors, decode) if anchored else None,
    )


def _autocasts_to_half(device: torch.device) -> bool:
    if not torch.is_autocast_enabled(device.type):
        return False
    return torch.get_autocast_dtype(device.type) == torch.float16


def _log_scalars(scalars: dict[str, Tensor]) -> None:
    """To the trainer's event storage, where there is one, with one copy to the host."""
    if has_event_storage() and scalars:
        values = torch.stack([x.float() for x in scalars.values()]).tolist()
        get_event_storage().put_scalars(**dict(zip(scalars, values, strict=True)))
