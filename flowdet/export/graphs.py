"""Turns trained models into functions of tensors with fixed output shapes, for the export."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from flowdet.config import EncoderFormat
from flowdet.config.errors import ConfigError, UsageError
from flowdet.detection import BoxTransportDetector, SetDetector
from flowdet.detection.detector import FlowMatchingDetector
from flowdet.export.suppression import unsuppressed
from flowdet.flowcls import Classifier
from flowdet.flowcls.classifier import FlowMatchingClassifier


class Graph(nn.Module, ABC):
    """The module that is exported: `graph(images)` or `graph(images, noise)`.

    `images` are pixels from 0 to 255, uint8 [B, 3, H, W], in the channel order
    `model.input_format`. B is free. H and W are fixed, because the positional encoding and the
    padding depend on them.

    Args:
        model: a model in evaluation mode.
        size: (H, W) of the images, in pixels.

    Attributes:
        noise: z_0 of every image, [1, ..., d], from `model.initial_noise`; None for models without
            initial noise.
        outputs: the names of the returned tensors, in order.
        description: describes inputs and outputs to the users of the file.

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
        """Returns z_0 of every image of a batch, [B, ..., d].

        Args:
            batch: B, the number of images.
            noise: z_0, [B, ..., d] or [1, ..., d]; None takes `self.noise`.
        """
        noise = self.noise if noise is None else noise
        return noise.expand(batch, *noise.shape[1:])

    @abstractmethod
    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes the outputs for a batch.

        Args:
            images: uint8 [B, 3, H, W].
            noise: z_0, [B, ..., d] or [1, ..., d]; None takes `self.noise`.
        """


def _for_export(model: SetDetector) -> SetDetector:
    """Returns a shallow copy of a detector that computes what a file of it computes.

    It has no network of proposals: only training uses it, and `torch.export` would write its
    weights to the file. The formats of inference in PyTorch (`TEST.BFLOAT16`,
    `TEST.CHANNELS_LAST`, `TEST.COMPILE`) are off: a file computes in float32.
    """
    model = copy.copy(model)
    model.encoder_format = EncoderFormat()
    if isinstance(model, FlowMatchingDetector):
        model.compile_steps = False
    # a copied module shares the dict of its submodules
    model._modules = {name: x for name, x in model._modules.items() if name != "proposal_network"}
    return model


class DetectionGraph(Graph):
    """A detector with its postprocessing.

    It returns the K best detections of each image, best first: `boxes` [B, K, 4] (absolute xyxy in
    pixels of the H x W image), `scores` [B, K] and `classes` [B, K] (int64). If an image has fewer
    detections, the remaining rows have score 0 and class -1.

    The graph includes the score threshold, the clipping of boxes, class-wise non-maximum
    suppression (NMS) and the maximum number of detections K. Without NMS, K is the number of
    queries times the number of classes.

    Args:
        model: a detector in evaluation mode. Its feature cache is not used.
        size: (H, W) of the images, in pixels.
        suppress: whether to include NMS.

    Raises:
        ValueError: the model is in training mode, or has early exit.
    """

    outputs = ("boxes", "scores", "classes")
    description = (
        "Input: images, uint8 [batch, 3, height, width], 0 to 255, channels in input_format, "
        "resized to height x width. Output, best first: boxes [batch, K, 4], xyxy in pixels of "
        "the resized image; scores [batch, K]; classes [batch, K], indices into class_names. "
        "Unused rows have score 0 and class -1."
    )

    def __init__(self, model: SetDetector, size: tuple[int, int], suppress: bool = True):
        super().__init__(_for_export(model), size)
        early_exit = model.settings.early_exit if isinstance(model, FlowMatchingDetector) else 0
        if early_exit:
            raise ConfigError(
                f"MODEL.FLOW_DET.EARLY_EXIT is {early_exit}, but an exported graph always runs all "
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
        """Selects the K best detections.

        Args:
            boxes: absolute xyxy, [B, M, 4].
            scores: [B, M, C].

        Returns:
            The outputs of the graph: boxes [B, K, 4], scores [B, K] and classes [B, K].
        """
        rules, num_classes = self.model.postprocess, scores.shape[2]
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
        scores = torch.where(has_area & (scores > rules.score_threshold), scores, 0.0)
        limit = scores.shape[1] * num_classes
        if self.suppress:
            by_class = scores.transpose(1, 2)
            kept = unsuppressed(boxes, by_class, rules.nms_threshold, rules.score_threshold)
            scores = torch.where(kept.transpose(1, 2), scores, 0.0)
            # a negative maximum means no limit, as in detectron2
            limit = min(limit, rules.max_detections) if rules.max_detections >= 0 else limit
        best = scores.flatten(1).topk(limit)
        query = (best.indices // num_classes)[..., None].expand(-1, -1, 4)
        classes = torch.where(best.values > 0, best.indices % num_classes, -1)
        return boxes.gather(1, query), best.values, classes


class ClassificationGraph(Graph):
    """A classifier. It returns the `probabilities` of the classes, [B, C].

    It has the arguments and errors of `Graph`.
    """

    outputs = ("probabilities",)
    description = (
        "Input: images, uint8 [batch, 3, height, width], 0 to 255, channels in input_format, "
        "resized to cover height x width and cropped at the center. Output: probabilities "
        "[batch, classes], in the order of class_names."
    )

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor]:
        model, pixels = self.model, self.model.normalize(images)
        if self.noise is None:
            logits = next(iter(model.image_logits(pixels, all_modes=False).values()))
        else:
            features = model.reader(model.backbone(pixels))
            z_0 = self.initial_noise(images.shape[0], noise)
            logits = model.logits(features, model.settings.plan, z_0)
        return (logits.float().softmax(dim=1),)


def graph_of(model: nn.Module, size: tuple[int, int], suppress: bool = True) -> Graph:
    """Builds the graph of a detector or classifier.

    Args:
        model: a detector or classifier of flowdet, in evaluation mode.
        size: (H, W) of the images, in pixels.
        suppress: whether to include NMS in the graph of a detector.

    Raises:
        ValueError: the model is neither, or it cannot be exported with its settings.
    """
    if isinstance(model, BoxTransportDetector):
        raise UsageError(
            "a BoxTransportDetector cannot be exported, because it draws noise in every step"
        )
    if isinstance(model, SetDetector):
        return DetectionGraph(model, size, suppress)
    if isinstance(model, Classifier):
        return ClassificationGraph(model, size)
    raise UsageError(
        f"a {type(model).__name__} cannot be exported: only classifiers and detectors with "
        "queries, such as a FlowMatchingDetector, can"
    )
