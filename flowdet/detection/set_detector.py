"""SetDetector: the parts that all detectors with M queries have, however they are trained."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from flowdet.detection.base_detector import BaseDetector, group_by_size, original_size
from flowdet.detection.criterion import SetCriterion
from flowdet.detection.heads import DetectionHeads
from flowdet.detection.matcher import HungarianMatcher
from flowdet.detection.postprocess import PostProcessor
from flowdet.detection.stability import BoxStability, Refinement
from flowdet.detection.targets import Targets
from flowdet.detection.tokens import ImageTokens

MATCHINGS = ("per_block", "shared")

# A per-image analysis is a callback. It gets the detector, the tokens of images of one size, their
# inputs and their detections. It returns a dict per image, which is merged into the image's result.
ImageAnalysis = Callable[
    ["SetDetector", ImageTokens, list[dict], list[Instances]], list[dict[str, Any]]
]


class SetDetector(BaseDetector):
    """Base class of detectors with queries.

    Subclasses compute M query embeddings from the image tokens.

    Args:
        heads: decode query embeddings to class logits and boxes.
        matcher, criterion: compute the detection loss.
        matching: `per_block`: each block (layer) matches its own prediction with the objects;
            `shared`: all blocks of an iteration use the matching of the first.
        postprocess: turns decoded queries into detections.
        num_queries: M, which is also the maximum number of objects of a training image that are
            matched with queries.
        stability: computes the factors by which scores are multiplied; None for no factors.
        encoder: the arguments of `BaseDetector`.

    Raises:
        ValueError: unknown matching; also as `BaseDetector`.
    """

    class_tensors = ("heads.classes.", "target_embedding.classes.")

    def __init__(
        self,
        *,
        heads: DetectionHeads,
        matcher: HungarianMatcher,
        criterion: SetCriterion,
        matching: str,
        postprocess: PostProcessor,
        num_queries: int,
        stability: BoxStability | None = None,
        **encoder,
    ):
        if matching not in MATCHINGS:
            raise ValueError(
                f"unknown MODEL.FLOW_DET.MATCHING {matching!r}: use one of {MATCHINGS}"
            )
        super().__init__(**encoder)
        self.heads = heads
        self.matcher = matcher
        self.criterion = criterion
        self.matching = matching
        self.postprocess = postprocess
        self.stability = stability
        self.num_queries = num_queries
        self.warned_of_dropped = False
        self.objects_dropped = 0

    @abstractmethod
    def losses(self, tokens: ImageTokens, targets: Targets) -> dict[str, Tensor]:
        """Computes the losses of a batch, to be summed with equal weight."""

    @abstractmethod
    def refine(self, tokens: ImageTokens, trajectory: bool = False) -> Refinement:
        """Computes query embeddings after the last step, or with `trajectory` after every step."""

    def stability_factors(self, refinement: Refinement) -> Tensor | None:
        """Returns the factors by which scores are multiplied, [B, M]; None without `stability`."""
        return self.stability and self.stability(refinement, self.heads.boxes)

    @abstractmethod
    def state_trajectory(self, tokens: ImageTokens) -> tuple[list[float], list[Tensor]]:
        """Returns times from 0 to 1 and the states at these times, [B, M, ...].

        The states are query embeddings [B, M, d], the last are the final embeddings. A detector
        with other states has its own `decode_states`. Between two times the state moves on a
        straight line.
        """

    def decode_states(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes states of `state_trajectory` [..., M, d] to boxes and their objectness.

        Returns:
            Boxes [..., M, 4], normalized cxcywh; and one minus the probability of background,
            [..., M].
        """
        logits, boxes = self.heads(states)
        return boxes, 1 - logits.softmax(dim=-1)[..., -1]

    @property
    @abstractmethod
    def trajectory_times(self) -> list[float]:
        """The time t after every step of a trajectory."""

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Computes losses in training, and detections otherwise; see `BaseDetector.forward`.

        The detections also have the field `pred_queries`, see `PostProcessor`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = self.prepare_targets(batched_inputs)
        return self.losses(self.encode(batched_inputs), targets)

    def prepare_targets(self, batched_inputs: list[dict]) -> Targets:
        """Returns the padded ground truth of a batch.

        If an image has more objects than there are queries, it logs a warning, once per training.

        Raises:
            ValueError: a label is outside 0 to C - 1.
        """
        targets = Targets.from_instances(
            [x["instances"] for x in batched_inputs],
            self.num_queries,
            self.criterion.num_classes,
        ).to(self.device)
        self.objects_dropped += sum(count for _, count in targets.dropped)
        if has_event_storage():
            get_event_storage().put_scalar(
                "objects_dropped", self.objects_dropped, smoothing_hint=False
            )
        if targets.dropped and not self.warned_of_dropped:
            self.warned_of_dropped = True
            image, count = targets.dropped[0]
            logging.getLogger(__name__).warning(
                "image %s has %d objects more than MODEL.FLOW_DET.NUM_QUERIES = %d: only the "
                "largest are matched with queries. This warning appears once; `objects_dropped` in "
                "the metrics counts all dropped objects",
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
        analyses: Sequence[ImageAnalysis] = (),
    ) -> list[dict]:
        """Detects objects in images of any sizes, in the configured inference mode.

        Args:
            batched_inputs: see `forward`.
            trajectory: also return the detections after every step.
            analyses: callbacks whose dicts are merged into the results.

        Returns:
            A dict per image: `instances`, with `trajectory` also `trajectory` (a list of
            `Instances`, one per step), and what the analyses return.
        """
        results: list[dict] = [{}] * len(batched_inputs)
        for indices in group_by_size(batched_inputs):
            inputs = [batched_inputs[i] for i in indices]
            tokens = self.encode(inputs)
            decoded = self.step_detections(tokens, inputs, trajectory)
            for i, *instances in zip(indices, *decoded, strict=True):
                results[i] = {"instances": instances[-1]}
                if trajectory:
                    results[i]["trajectory"] = instances
            for analyze in analyses:
                extra = analyze(self, tokens, inputs, decoded[-1])
                for i, values in zip(indices, extra, strict=True):
                    results[i] |= values
        return results

    def step_detections(
        self, tokens: ImageTokens, batched_inputs: list[dict], trajectory: bool = False
    ) -> list[list[Instances]]:
        """Computes the final detections, or with `trajectory` the detections after every step.

        Args:
            tokens: the encoded images.
            batched_inputs: their inputs, see `forward`.
            trajectory: also return the detections after every earlier step.

        Returns:
            The detections of every image, by step. The last are final: only their scores are
            multiplied by the box stability.
        """
        refinement = self.refine(tokens, trajectory)
        *steps, z_1 = refinement.estimates
        decoded = [self.detections(z, batched_inputs) for z in steps]
        factors = self.stability_factors(refinement)
        return [*decoded, self.detections(z_1, batched_inputs, factors)]

    def detections(
        self, z: Tensor, batched_inputs: list[dict], score_factors: Tensor | None = None
    ) -> list[Instances]:
        """Decodes query embeddings [B, M, d] to the detections of images of one size.

        The scores are multiplied by `score_factors` [B, M].
        """
        logits, boxes = self.heads(z)
        image_size = tuple(batched_inputs[0]["image"].shape[-2:])
        output_sizes = [original_size(x) for x in batched_inputs]
        return self.postprocess(logits, boxes, image_size, output_sizes, score_factors)
