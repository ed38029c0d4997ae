"""FasterRCNNDetector: detectron2's region proposal network and box heads (Ren et al., 2015)."""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_proposal_generator, build_roi_heads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from flowdet.detection.peers.peer_detector import PeerDetector, build_peer_parts
from flowdet.detection.proposal_keys import check_anchors, check_min_size, one_line_errors

# keys of detectron2 that have the value of a key of MODEL.FLOW_DET
_FLOW_KEYS = {
    "NUM_CLASSES": "NUM_CLASSES",
    "SCORE_THRESH_TEST": "SCORE_THRESHOLD",
    "NMS_THRESH_TEST": "NMS_THRESHOLD",
}


@META_ARCH_REGISTRY.register()
class FasterRCNNDetector(PeerDetector):
    """Faster R-CNN on flowdet's backbone and neck.

    The proposal network with its anchors, the sampling of proposals, RoIAlign, the box head, the
    losses and the non-maximum suppression are detectron2's. `MODEL.RPN`, `MODEL.ANCHOR_GENERATOR`,
    `MODEL.ROI_HEADS` and `MODEL.ROI_BOX_HEAD` configure them. The number of classes and the
    thresholds of inference are those of `MODEL.FLOW_DET`, as for the other detectors.

    Args:
        proposal_generator: detectron2's `RPN`.
        roi_heads: detectron2's `StandardROIHeads`.
        parts: the arguments of `PeerDetector`.
    """

    class_tensors = ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred.")

    @configurable
    def __init__(self, *, proposal_generator: nn.Module, roi_heads: nn.Module, **parts):
        super().__init__(**parts)
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        _check_keys(cfg)
        parts, shapes = build_peer_parts(cfg)
        for key in ("RPN", "ROI_HEADS"):
            _check_features(f"MODEL.{key}.IN_FEATURES", cfg.MODEL[key].IN_FEATURES, list(shapes))
        check_anchors(cfg, len(cfg.MODEL.RPN.IN_FEATURES))
        heads_cfg = _heads_config(cfg)
        with one_line_errors("MODEL.RPN and MODEL.ANCHOR_GENERATOR"):
            proposal_generator = build_proposal_generator(heads_cfg, shapes)
        with one_line_errors("MODEL.ROI_HEADS and MODEL.ROI_BOX_HEAD"):
            roi_heads = build_roi_heads(heads_cfg, shapes)
        return {**parts, "proposal_generator": proposal_generator, "roi_heads": roi_heads}

    def losses(
        self, images: ImageList, features: dict[str, Tensor], objects: list[Instances]
    ) -> dict[str, Tensor]:
        """Computes the losses of the proposal network and of the box head."""
        proposals, proposal_losses = self.proposal_generator(images, features, objects)
        _, box_losses = self.roi_heads(images, features, proposals, objects)
        return box_losses | proposal_losses

    def detections(self, images: ImageList, features: dict[str, Tensor]) -> list[Instances]:
        proposals, _ = self.proposal_generator(images, features)
        instances, _ = self.roi_heads(images, features, proposals)
        return instances


def _heads_config(cfg: CfgNode) -> CfgNode:
    """Returns a copy of a config with the classes and thresholds of `MODEL.FLOW_DET` in
    `MODEL.ROI_HEADS`."""
    cfg = cfg.clone()
    cfg.defrost()
    for key, flow_key in _FLOW_KEYS.items():
        cfg.MODEL.ROI_HEADS[key] = cfg.MODEL.FLOW_DET[flow_key]
    return cfg


def _check_keys(cfg: CfgNode) -> None:
    """Checks the keys of detectron2 that flowdet's data and neck restrict.

    Raises:
        ValueError: a key has a value that the detector cannot use.
    """
    _check_flow_keys(cfg)
    check_min_size(cfg)
    _check_box_head(cfg)
    model = cfg.MODEL
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if model[key]:
            raise ValueError(
                f"MODEL.{key} is True, but the datasets have only boxes: set it to False"
            )
    if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise ValueError(
            "MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, but the datasets have no "
            "proposals: set it to RPN"
        )
    if model.ROI_HEADS.NAME == "Res5ROIHeads" or not model.ROI_BOX_HEAD.NAME:
        raise ValueError(
            "a FasterRCNNDetector needs a box head on the feature maps of the neck: set "
            "MODEL.ROI_HEADS.NAME StandardROIHeads and MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead, "
            "as configs/peers/voc_faster_rcnn_r18_frozen.yaml does"
        )


def _check_box_head(cfg: CfgNode) -> None:
    """Raises ValueError if the layers or the loss of the box head cannot be built."""
    head, datasets = cfg.MODEL.ROI_BOX_HEAD, cfg.DATASETS.TRAIN
    if head.NAME == "FastRCNNConvFCHead" and not head.NUM_FC and not head.NUM_CONV:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.NUM_FC and NUM_CONV are 0, but the box head needs a layer: set, "
            "for example, MODEL.ROI_BOX_HEAD.NUM_FC 2"
        )
    counted = datasets and hasattr(MetadataCatalog.get(datasets[0]), "class_image_count")
    if head.USE_FED_LOSS and not counted:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is True, but the training dataset has no "
            "class_image_count in its metadata: set it to False"
        )


def _check_flow_keys(cfg: CfgNode) -> None:
    """Raises ValueError if a key that `MODEL.FLOW_DET` replaces is set to something else."""
    default = get_cfg().MODEL.ROI_HEADS
    for key, flow_key in _FLOW_KEYS.items():
        value, used = cfg.MODEL.ROI_HEADS[key], cfg.MODEL.FLOW_DET[flow_key]
        if value not in (default[key], used):
            raise ValueError(
                f"MODEL.ROI_HEADS.{key} is {value}, but a FasterRCNNDetector uses "
                f"MODEL.FLOW_DET.{flow_key}, which is {used}: set that key instead"
            )


def _check_features(key: str, given: Iterable[str], available: list[str]) -> None:
    missing = [name for name in given if name not in available]
    if missing:
        raise ValueError(
            f"{key} names {missing}, but the neck has only the feature maps of "
            f"MODEL.FLOW_DET.IN_FEATURES, {available}"
        )
