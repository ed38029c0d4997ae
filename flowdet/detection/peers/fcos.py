"""FCOSDetector: detectron2's FCOS head (Tian et al., 2019)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import ImageList, Instances
from torch import Tensor

from flowdet.detection.peers.peer_detector import PeerDetector, build_peer_parts


@META_ARCH_REGISTRY.register()
class FCOSDetector(PeerDetector):
    """FCOS on flowdet's backbone and neck.

    The head, the assignment of objects to locations, the losses and the non-maximum suppression are
    detectron2's. `MODEL.FCOS` configures them; detectron2 has no config keys for FCOS. The number
    of classes and the thresholds of inference are those of `MODEL.FLOW_DET`, as for the other
    detectors.

    Args:
        fcos: detectron2's `FCOS` without its backbone.
        parts: the arguments of `PeerDetector`.
    """

    class_tensors = ("fcos.head.cls_score.",)

    @configurable
    def __init__(self, *, fcos: FCOS, **parts):
        super().__init__(**parts)
        self.fcos = fcos

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        parts, unordered = build_peer_parts(cfg)
        # fine before coarse: detectron2 assigns small objects to the first feature map
        shapes = dict(sorted(unordered.items(), key=lambda item: item[1].stride))
        flow_cfg, fcos_cfg = cfg.MODEL.FLOW_DET, cfg.MODEL.FCOS
        head = FCOSHead(
            input_shape=list(shapes.values()),
            num_classes=flow_cfg.NUM_CLASSES,
            conv_dims=[flow_cfg.HIDDEN_DIM] * fcos_cfg.NUM_CONVS,
            norm=fcos_cfg.NORM,
            prior_prob=fcos_cfg.PRIOR_PROB,
        )
        fcos = _ResumableFCOS(
            backbone=_FeatureShapes(shapes),
            head=head,
            head_in_features=list(shapes),
            num_classes=flow_cfg.NUM_CLASSES,
            center_sampling_radius=fcos_cfg.CENTER_SAMPLING_RADIUS,
            focal_loss_alpha=fcos_cfg.FOCAL_LOSS_ALPHA,
            focal_loss_gamma=fcos_cfg.FOCAL_LOSS_GAMMA,
            test_score_thresh=flow_cfg.SCORE_THRESHOLD,
            test_topk_candidates=fcos_cfg.TOPK_CANDIDATES,
            test_nms_thresh=flow_cfg.NMS_THRESHOLD,
            max_detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )
        return {**parts, "fcos": fcos}

    def losses(
        self, images: ImageList, features: dict[str, Tensor], objects: list[Instances]
    ) -> dict[str, Tensor]:
        """Computes the losses of classes, boxes and centerness."""
        maps = self._ordered(features)
        # the box loss does not take half precision together with ground truth in float32
        predictions = tuple([x.float() for x in levels] for levels in self.fcos.head(maps))
        # detectron2 checks this only for its proposal network
        if not all(x.isfinite().all() for levels in predictions for x in levels):
            raise FloatingPointError("predictions are NaN or inf")
        # If it were optimized, the compiled focal loss of detectron2 would round differently in the
        # first iterations of a process: a resumed training would differ from an uninterrupted one.
        with torch.jit.optimized_execution(False):
            return self.fcos.forward_training(images, maps, predictions, objects)

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Instances]:
        maps = self._ordered(features)
        return self.fcos.forward_inference(images, maps, self.fcos.head(maps))

    def _ordered(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.fcos.head_in_features]


class _ResumableFCOS(FCOS):
    """detectron2's FCOS. Checkpoints also contain the normalizer of its losses.

    The normalizer is a moving average of the number of positive locations. Without it, a resumed
    training would differ from an uninterrupted one.
    """

    def __init__(self, **arguments):
        super().__init__(**arguments)
        # detectron2's initial value
        self.register_buffer("loss_normalizer", torch.tensor(300.0))


class _FeatureShapes(Backbone):
    """Gives the shapes of the neck's feature maps to detectron2's FCOS; it computes nothing."""

    def __init__(self, shapes: dict[str, ShapeSpec]):
        super().__init__()
        self._shapes = shapes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        raise TypeError("an FCOSDetector computes the feature maps with its own backbone and neck")

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes
