"""PeerDetector: heads of detectron2 on the backbone and neck of flowdet's detectors."""

from __future__ import annotations

from abc import abstractmethod

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor

from flowdet.detection.base_detector import BaseDetector, group_by_size, original_size
from flowdet.detection.build import build_encoder, check_num_classes
from flowdet.detection.postprocess import check_thresholds
from flowdet.detection.targets import Targets
from flowdet.detection.tokens import token_maps
from flowdet.events import with_event_storage
from flowdet.flow import NonFiniteError


class PeerDetector(BaseDetector):
    """Base class of the detectors whose heads, losses and post-processing are detectron2's.

    flowdet's part: normalization, backbone, feature cache, neck, and batches of equally large
    images in inference. The heads get the tokens of the neck, reshaped to feature maps.

    Args:
        num_classes: C, to check the labels of training images.
        encoder: the arguments of `BaseDetector`.
    """

    def __init__(self, *, num_classes: int, **encoder):
        super().__init__(**encoder)
        self.num_classes = num_classes

    @abstractmethod
    def losses(
        self, images: ImageList, features: dict[str, Tensor], objects: list[Instances]
    ) -> dict[str, Tensor]:
        """Computes the losses of a batch, to be summed with equal weight.

        Args:
            images: the preprocessed images.
            features: the feature maps by name, [B, d, H, W].
            objects: the ground truth of each image, with `gt_boxes` (absolute xyxy in the resized
                image) and `gt_classes`.

        Raises:
            FloatingPointError: a prediction is NaN or inf.
        """

    @abstractmethod
    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Instances]:
        """Computes the detections of each image, by descending score.

        The boxes are absolute xyxy in pixels of the resized image. For the arguments see `losses`.
        """

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Computes losses in training, and detections otherwise; see `BaseDetector.forward`.

        Raises:
            ValueError: in training, a label is outside 0 to C - 1.
            NonFiniteError: in training, a loss is not finite.
        """
        if not self.training:
            return self.inference(batched_inputs)
        objects = self._objects(batched_inputs)
        images = self.preprocess(batched_inputs)
        try:
            with with_event_storage():
                losses = self.losses(images, self.feature_maps(images), objects)
        except FloatingPointError as error:
            raise NonFiniteError(self._divergence) from error
        if not torch.stack(list(losses.values())).isfinite().all():
            raise NonFiniteError(self._divergence)
        return losses

    @property
    def _divergence(self) -> str:
        return (
            f"the losses of the {type(self).__name__} are not finite, so the training has "
            "diverged: lower SOLVER.BASE_LR, or lengthen the warm-up (SOLVER.WARMUP_ITERS)"
        )

    def _objects(self, batched_inputs: list[dict]) -> list[Instances]:
        """Returns the ground truth of each image; raises ValueError for an unknown label.

        Boxes without area are left out: the logarithm of their size is not finite.
        """
        objects = [x["instances"].to(self.device) for x in batched_inputs]
        # only for its check of the labels: detectron2 would take label C for background
        Targets.from_instances(objects, max(map(len, objects)), self.num_classes)
        return [x[x.gt_boxes.nonempty()] for x in objects]

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        """Detects objects in images of any sizes.

        The result of an image does not depend on the other images: only images of equal size are
        processed together.

        Args:
            batched_inputs: see `BaseDetector.forward`.

        Returns:
            A dict `{"instances": Instances}` per image, see `BaseDetector.forward`.
        """
        results: list[dict] = [{}] * len(batched_inputs)
        for indices in group_by_size(batched_inputs):
            images = self.preprocess([batched_inputs[i] for i in indices])
            detections = self.detections(images, self.feature_maps(images))
            for i, instances in zip(indices, detections, strict=True):
                size = original_size(batched_inputs[i])
                results[i] = {"instances": detector_postprocess(instances, *size)}
        return results

    def feature_maps(self, images: ImageList) -> dict[str, Tensor]:
        """Returns the tokens of preprocessed images as feature maps [B, d, H, W], by name."""
        return dict(zip(self.in_features, token_maps(self.encode_images(images)), strict=True))


def build_peer_parts(cfg: CfgNode) -> tuple[dict, dict[str, ShapeSpec]]:
    """Builds the parts that all peers share.

    Returns:
        The keyword arguments of `PeerDetector`, and the shapes of its feature maps by name.

    Raises:
        ValueError: the value of a key is unknown, out of range, or does not fit another key; or the
            backbone does not give the stride of a feature map.
    """
    flow_cfg = cfg.MODEL.FLOW_DET
    check_num_classes(flow_cfg)
    check_thresholds(flow_cfg.SCORE_THRESHOLD, flow_cfg.NMS_THRESHOLD)
    encoder = build_encoder(cfg)
    strides = dict(zip(encoder["in_features"], encoder["neck"].strides, strict=True))
    unknown = [name for name, stride in strides.items() if not stride]
    if unknown:
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} needs the strides of its feature maps, but the "
            f"output_shape of the backbone {cfg.MODEL.BACKBONE.NAME} has no stride of "
            f"{', '.join(unknown)}"
        )
    shapes = {
        name: ShapeSpec(channels=flow_cfg.HIDDEN_DIM, stride=stride)
        for name, stride in strides.items()
    }
    return {**encoder, "num_classes": flow_cfg.NUM_CLASSES}, shapes
