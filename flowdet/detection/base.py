"""What a detector consists of, whatever trains its blocks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from flowdet.detection.criterion import SetCriterion
from flowdet.detection.feature_cache import FeatureCache
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.neck import TokenNeck
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.stability import Stability, Transport
from flowdet.detection.targets import Targets
from flowdet.flow import ImageTokens

ASSIGNMENTS = ("own", "carried")

# What is to be known of images beside their detections: of the detector, the tokens of images of
# one size, their inputs and their detections it makes a dict per image, which joins the result.
Question = Callable[["SetDetector", ImageTokens, list[dict], list[Instances]], list[dict[str, Any]]]


class SetDetector(nn.Module, ABC):
    """Images in, a set of M queries decoded to detections out; subclasses carry the queries.

    Args:
        backbone: any detectron2 backbone.
        in_features: names of the feature maps it is read at.
        neck: feature maps to image tokens.
        heads: decode embeddings.
        matcher, criterion: the detection loss.
        assignment: on what queries and objects are matched: `own`: each block on its own
            prediction; `carried`: all blocks of an iteration on that of the first.
        postprocess: decoded queries to detections.
        num_queries: M, the most objects that an image may have.
        feature_cache_gib: memory in which the features of a frozen backbone are kept, so that
            each image passes it once; 0 for none.
        feature_cache_dir: folder in which they are kept for the next run; "" for none.
        stability: rates boxes, whose scores are multiplied by it; None leaves them.
        pixel_mean, pixel_std: per channel, in the order of `input_format`.
        input_format: "RGB" or "BGR".
    """

    # what depends on the number of classes, by the start of its name
    class_tensors = ("heads.classes.", "target_embedding.classes.")

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        neck: TokenNeck,
        heads: DetectionHeads,
        matcher: HungarianMatcher,
        criterion: SetCriterion,
        assignment: str,
        postprocess: PostProcessor,
        num_queries: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
        feature_cache_gib: float = 0.0,
        feature_cache_dir: str = "",
        stability: Stability | None = None,
    ):
        super().__init__()
        if assignment not in ASSIGNMENTS:
            raise ValueError(
                f"unknown MODEL.FLOW_DET.ASSIGNMENT {assignment!r}: use one of {ASSIGNMENTS}"
            )
        self.backbone = backbone
        self.in_features = list(in_features)
        self.neck = neck
        self.heads = heads
        self.matcher = matcher
        self.criterion = criterion
        self.assignment = assignment
        self.postprocess = postprocess
        self.stability = stability
        self.num_queries = num_queries
        self.input_format = input_format
        self.feature_cache = None
        if feature_cache_gib:
            FeatureCache.check(backbone)
            self.feature_cache = FeatureCache(feature_cache_gib, feature_cache_dir)
        self.warned_of_dropped = False
        self.objects_dropped = 0
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.feature_cache:
            self.feature_cache.clear()

    @abstractmethod
    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """The losses of a batch, to be summed with equal weight."""

    @abstractmethod
    def transport(self, tokens: ImageTokens, trajectory: bool = False) -> Transport:
        """What the queries become in the current inference mode."""

    def stability_of(self, transport: Transport) -> Tensor | None:
        """By what the scores of every query are multiplied, [B, M]; None if by nothing."""
        return self.stability and self.stability(transport, self.heads.boxes)

    @abstractmethod
    def visited_states(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """Where the queries are on their way, [B, M, d] each, and at which times from 0 to 1; the
        last is what `transport` ends with. From one to the next they go straight."""

    @property
    @abstractmethod
    def trajectory_times(self) -> list[float]:
        """The time t after every step of a trajectory."""

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
        return self.losses(self.encode(batched_inputs), targets)

    def prepare_targets(self, batched_inputs: list[dict]) -> Targets:
        """The padded ground truth of a batch; warns once of images with too many objects."""
        targets = Targets.from_instances(
            [x["instances"].to(self.device) for x in batched_inputs],
            self.num_queries,
            self.criterion.num_classes,
        )
        self.objects_dropped += sum(count for _, count in targets.dropped)
        if has_event_storage():
            get_event_storage().put_scalar(
                "objects_dropped", self.objects_dropped, smoothing_hint=False
            )
        if targets.dropped and not self.warned_of_dropped:
            self.warned_of_dropped = True
            image, count = targets.dropped[0]
            logging.getLogger(__name__).warning(
                "image %s has %d objects more than MODEL.FLOW_DET.NUM_QUERIES = %d: the largest "
                "are kept. Said once; `objects_dropped` in the metrics counts on",
                batched_inputs[image].get("image_id", batched_inputs[image].get("file_name")),
                count,
                self.num_queries,
            )
        return targets

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        trajectory: bool = False,
        questions: Sequence[Question] = (),
    ) -> list[dict]:
        """Detections of a batch of any size, in the current inference mode.

        Args:
            batched_inputs: dicts with `image` and optionally the original `height`, `width`.
            trajectory: also return `trajectory`, the `Instances` that the estimate after
                every step decodes to.
            questions: what else is asked of the images; the answers join the results.
        """
        results: list[dict] = [{}] * len(batched_inputs)
        for places in same_size(batched_inputs):
            inputs = [batched_inputs[i] for i in places]
            tokens = self.encode(inputs)
            transport = self.transport(tokens, trajectory)
            *steps, z_1 = transport.estimates
            decoded = [self.detections(z, inputs) for z in steps]
            decoded.append(self.detections(z_1, inputs, self.stability_of(transport)))
            for i, *instances in zip(places, *decoded, strict=True):
                results[i] = {"instances": instances[-1]}
                if trajectory:
                    results[i]["trajectory"] = instances
            for ask in questions:
                for i, answer in zip(places, ask(self, tokens, inputs, decoded[-1]), strict=True):
                    results[i] |= answer
        return results

    def encode(self, batched_inputs: list[dict]) -> ImageTokens:
        """Images to tokens, padded to one size. Inference keeps to images of one size, see
        `same_size`, so that no image sees another one's padding."""
        batch = self.pad([self.normalise(x["image"].to(self.device)) for x in batched_inputs])
        cache = self.feature_cache
        features = cache(self.backbone, batch.tensor) if cache else self.backbone(batch.tensor)
        return self.tokens_of(features, batch.image_sizes, tuple(batch.tensor.shape[-2:]))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels of 0 to 255, [..., C, H, W], as the backbone takes them."""
        return (images - self.pixel_mean) / self.pixel_std

    def pad(self, images: list[Tensor]) -> ImageList:
        """Images of any sizes, [C, H, W], as a batch of a size that the backbone takes."""
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def tokens_of(
        self,
        features: dict[str, Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
    ) -> ImageTokens:
        """The backbone's feature maps as tokens; sizes as of `TokenNeck`."""
        return self.neck([features[name] for name in self.in_features], image_sizes, padded_size)

    def detections(
        self, z: Tensor, batched_inputs: list[dict], confidence: Tensor | None = None
    ) -> list[Instances]:
        """Decodes embeddings [B, M, d] to the detections of every image; `confidence` [B, M]
        multiplies their scores."""
        logits, boxes = self.heads(z)
        results = []
        for i, x in enumerate(batched_inputs):
            sizes = tuple(x["image"].shape[-2:]), original_size(x)
            sure = None if confidence is None else confidence[i]
            results.append(self.postprocess(logits[i], boxes[i], *sizes, sure))
        return results


def original_size(batched_input: dict) -> tuple[int, int]:
    """Height and width to which a detector scales the boxes of an input."""
    height, width = batched_input["image"].shape[-2:]
    return batched_input.get("height", height), batched_input.get("width", width)


def same_size(batched_inputs: Sequence[dict]) -> list[list[int]]:
    """The places of the images of each size."""
    groups: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(batched_inputs):
        groups.setdefault(x["image"].shape, []).append(i)
    return list(groups.values())
