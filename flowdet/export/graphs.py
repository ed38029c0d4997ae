"""Trained models as functions from tensors to tensors of fixed shape, ready to be exported."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from flowdet.detection import SetDetector
from flowdet.detection.detector import FlowMatchingDetector
from flowdet.export.suppression import unsuppressed
from flowdet.flowcls import Classifier
from flowdet.flowcls.classifier import FlowMatchingClassifier


class Graph(nn.Module, ABC):
    """What is exported: `graph(images)`, or `graph(images, noise)`.

    `images` are the pixels as an image file holds them, uint8 [B, 3, H, W] in the channel order
    `model.input_format`. B is free, the size is not: position codes and padding depend on it.

    Args:
        model: in evaluation mode.
        size: H and W.

    Attributes:
        noise: z_0 for every image by `model.initial_noise`, [1, ..., d]; None for a model without.
        outputs: names of what it returns, in order.

    Raises:
        ValueError: the model is in training mode.
    """

    outputs: tuple[str, ...]
    description: str

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        if model.training:
            raise ValueError("the model is in training mode: call model.eval() first")
        self.model = model
        self.size = size
        flows = isinstance(model, (FlowMatchingDetector, FlowMatchingClassifier))
        self.register_buffer("noise", model.initial_noise(1) if flows else None, persistent=False)

    def initial_noise(self, batch: int, noise: Tensor | None) -> Tensor:
        """The given noise [B or 1, ..., d], or `self.noise`, for every image of a batch."""
        noise = self.noise if noise is None else noise
        return noise.expand(batch, *noise.shape[1:])

    @abstractmethod
    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """See the class."""


class DetectionGraph(Graph):
    """A detector. Returns, of the K best detections of each image, best first:

    `boxes` [B, K, 4] (absolute xyxy, in pixels of the H x W image), `scores` [B, K] and
    `classes` [B, K] (int64). Where there are fewer, score 0 and class -1 fill the rest.

    The detector's score threshold, clipping, class-wise suppression and limit of detections (K)
    are part of it. Without suppression K is the number of queries times that of classes.

    Args:
        model: in evaluation mode. Its feature cache is passed by.
        size: H and W.
        suppress: drop the less confident of overlapping boxes of a class.

    Raises:
        ValueError: training mode, or a detector that decides how many steps an image needs.
    """

    outputs = ("boxes", "scores", "classes")
    description = (
        "Input: images, uint8 [batch, 3, height, width], 0 to 255, channels in input_format, "
        "resized to height x width. Output, best first: boxes [batch, K, 4], xyxy in pixels of "
        "the resized image; scores [batch, K]; classes [batch, K], places in class_names. Unused "
        "rows have score 0 and class -1."
    )

    def __init__(self, model: SetDetector, size: tuple[int, int], suppress: bool = True):
        super().__init__(model, size)
        early_exit = model.settings.early_exit if isinstance(model, FlowMatchingDetector) else 0
        if early_exit:
            raise ValueError(
                f"MODEL.FLOW_DET.EARLY_EXIT is {early_exit}, and an exported graph makes all of its "
                "steps: export with MODEL.FLOW_DET.EARLY_EXIT 0"
            )
        self.suppress = suppress
        empty = model.pixel_mean.new_zeros(len(model.pixel_mean), *size)
        height, width = model.pad([empty]).tensor.shape[-2:]
        self.padded_size = (height, width)
        self.padding = (0, width - size[1], 0, height - size[0])

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        features = model.backbone(F.pad(model.normalize(images), self.padding))
        tokens = model.to_tokens(features, [self.size], self.padded_size)
        start = {} if self.noise is None else {"z_0": self.initial_noise(images.shape[0], noise)}
        refinement = model.refine(tokens, **start)
        logits, boxes = model.heads(refinement.z_1)
        factors = model.stability_factors(refinement)
        boxes, scores = model.postprocess.decode(logits, boxes, self.size, factors)
        return self.select(clip_boxes_to_image(boxes, self.size), scores[..., :-1])

    def select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, M, 4] and scores [B, M, C] to the outputs."""
        rules, num_classes = self.model.postprocess, scores.shape[2]
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
        scores = torch.where(has_area & (scores > rules.score_threshold), scores, 0.0)
        limit = scores.shape[1] * num_classes
        if self.suppress:
            by_class = scores.transpose(1, 2)
            kept = unsuppressed(boxes, by_class, rules.nms_threshold, rules.score_threshold)
            scores = torch.where(kept.transpose(1, 2), scores, 0.0)
            # negative: no limit, as in detectron2
            limit = min(limit, rules.max_detections) if rules.max_detections >= 0 else limit
        best = scores.flatten(1).topk(limit)
        query = (best.indices // num_classes)[..., None].expand(-1, -1, 4)
        classes = torch.where(best.values > 0, best.indices % num_classes, -1)
        return boxes.gather(1, query), best.values, classes


class ClassificationGraph(Graph):
    """A classifier. Returns the `probabilities` of the classes, [B, C].

    Arguments and errors are those of `Graph`.
    """

    outputs = ("probabilities",)
    description = (
        "Input: images, uint8 [batch, 3, height, width], 0 to 255, channels in input_format, "
        "resized to cover height x width and cropped at the centre. Output: probabilities "
        "[batch, classes], in the order of class_names."
    )

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor]:
        model = self.model
        features = model.reader(model.backbone(model.normalize(images)))
        if self.noise is None:
            logits = next(iter(model.logits_by_mode(features, all_modes=False).values()))
        else:
            z_0 = self.initial_noise(images.shape[0], noise)
            logits = model.logits(features, model.settings.plan, z_0)
        return (logits.float().softmax(dim=1),)


def graph_of(model: nn.Module, size: tuple[int, int], suppress: bool = True) -> Graph:
    """The graph of a detector or classifier; arguments as of theirs.

    Raises:
        ValueError: the model is neither, or cannot be exported as it is.
    """
    if isinstance(model, SetDetector):
        return DetectionGraph(model, size, suppress)
    if isinstance(model, Classifier):
        return ClassificationGraph(model, size)
    raise ValueError(f"a {type(model).__name__} is no detector or classifier of flowdet")
