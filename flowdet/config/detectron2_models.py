"""Rules for detectron2's keys of models that flowdet uses. detectron2 has their defaults."""

from __future__ import annotations

from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY

from flowdet.config import rules as r
from flowdet.config.conditions import RESNETS, SMALL_RESNET, backbone, either, has, is_set, read_by
from flowdet.config.declaration import Key, checked

_IS_RESNET = backbone(*RESNETS)
_HAS_FPN = backbone(*RESNETS[1:])
_FASTER_RCNN = read_by("FasterRCNNDetector")
_HAS_RPN = either(_FASTER_RCNN, is_set("MODEL.FLOW_DET.PROPOSAL_QUERIES"))
_IS_CASCADE = has("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
_HAS_FED_LOSS = is_set("MODEL.ROI_BOX_HEAD.USE_FED_LOSS")

_LABELED = {"IOU_THRESHOLDS": r.THRESHOLDS, "IOU_LABELS": r.LABELS}
_SAMPLED = {"BATCH_SIZE_PER_IMAGE": r.COUNT, "POSITIVE_FRACTION": r.POSITIVE_FRACTION}
_BOX_LOSS = {
    "BBOX_REG_LOSS_TYPE": r.one_of("smooth_l1", "giou", "diou", "ciou"),
    "BBOX_REG_LOSS_WEIGHT": r.WEIGHT,
    "BBOX_REG_WEIGHTS": r.BOX_WEIGHTS,
    "SMOOTH_L1_BETA": r.WEIGHT,
}

SECTIONS = (
    checked(
        "MODEL",
        {
            "DEVICE": r.DEVICE,
            "META_ARCHITECTURE": Key(
                None, r.registered(META_ARCH_REGISTRY), example="FlowMatchingDetector"
            ),
            "WEIGHTS": r.TEXT,
            "MASK_ON": r.NO_MASKS,
            "KEYPOINT_ON": r.NO_MASKS,
            "PIXEL_MEAN": r.each(r.at_least(-r.MOST, r.MOST), 3),
            "PIXEL_STD": r.each(r.above(0, r.MOST), 3),
        },
    ),
    checked("MODEL.BACKBONE", {"NAME": r.registered(BACKBONE_REGISTRY)}),
    checked("MODEL.BACKBONE", {"FREEZE_AT": r.from_to(0, 5)}, _IS_RESNET),
    # the small ResNet reads these two as well
    checked(
        "MODEL.RESNETS",
        {
            "NORM": r.NORM,
            "OUT_FEATURES": r.each(r.one_of("stem", "res2", "res3", "res4", "res5")),
        },
        backbone(*RESNETS, SMALL_RESNET),
    ),
    checked(
        "MODEL.RESNETS",
        {
            "DEPTH": r.one_of(18, 34, 50, 101, 152),
            "NUM_GROUPS": r.SIZE,
            "WIDTH_PER_GROUP": r.SIZE,
            "STRIDE_IN_1X1": r.TRUE_OR_FALSE,
            "RES5_DILATION": r.one_of(1, 2),
            "RES2_OUT_CHANNELS": r.SIZE,
            "STEM_OUT_CHANNELS": r.SIZE,
            "DEFORM_ON_PER_STAGE": r.each(r.TRUE_OR_FALSE, 4),
            "DEFORM_MODULATED": r.TRUE_OR_FALSE,
            "DEFORM_NUM_GROUPS": r.SIZE,
        },
        _IS_RESNET,
    ),
    checked(
        "MODEL.FPN",
        {
            "IN_FEATURES": Key(None, r.each(r.NAME, optional=True), element=str),
            "OUT_CHANNELS": r.SIZE,
            "NORM": r.NORM,
            "FUSE_TYPE": r.one_of("sum", "avg"),
        },
        _HAS_FPN,
    ),
    checked(
        "MODEL.PROPOSAL_GENERATOR",
        {"NAME": r.registered(PROPOSAL_GENERATOR_REGISTRY), "MIN_SIZE": r.OPTIONAL_SIZE},
        _HAS_RPN,
    ),
    checked(
        "MODEL.ANCHOR_GENERATOR",
        {
            "NAME": r.registered(ANCHOR_GENERATOR_REGISTRY),
            "SIZES": r.ANCHORS,
            "ASPECT_RATIOS": r.ANCHORS,
            "OFFSET": r.from_to_below(0, 1),
        },
        _HAS_RPN,
    ),
    checked(
        "MODEL.RPN",
        {
            "HEAD_NAME": r.registered(RPN_HEAD_REGISTRY),
            "IN_FEATURES": r.each(r.NAME),
            "BOUNDARY_THRESH": r.at_least(-1, r.LONGEST_SIDE),
            "NMS_THRESH": r.FRACTION,
            "LOSS_WEIGHT": r.WEIGHT,
            "CONV_DIMS": r.CONV_DIMS,
            "PRE_NMS_TOPK_TRAIN": r.COUNT,
            "PRE_NMS_TOPK_TEST": r.COUNT,
            "POST_NMS_TOPK_TRAIN": r.COUNT,
            "POST_NMS_TOPK_TEST": r.COUNT,
            **_LABELED,
            **_SAMPLED,
            **_BOX_LOSS,
        },
        _HAS_RPN,
    ),
    checked(
        "MODEL.ROI_HEADS",
        {
            "NAME": r.registered(ROI_HEADS_REGISTRY),
            "NUM_CLASSES": r.COUNT,
            "IN_FEATURES": r.each(r.NAME),
            "SCORE_THRESH_TEST": r.FRACTION,
            "NMS_THRESH_TEST": r.FRACTION,
            "PROPOSAL_APPEND_GT": r.TRUE_OR_FALSE,
            **_LABELED,
            **_SAMPLED,
        },
        _FASTER_RCNN,
    ),
    checked(
        "MODEL.ROI_BOX_HEAD",
        {
            "NAME": Key(
                None,
                r.registered(ROI_BOX_HEAD_REGISTRY, optional=True),
                example="FastRCNNConvFCHead",
            ),
            "POOLER_RESOLUTION": r.at_least(1, 1000),
            "POOLER_SAMPLING_RATIO": r.at_least(0, 1000),
            "POOLER_TYPE": r.one_of("ROIPool", "ROIAlign", "ROIAlignV2"),
            "NUM_FC": r.at_least(0, 100),
            "FC_DIM": r.SIZE,
            "NUM_CONV": r.at_least(0, 100),
            "CONV_DIM": r.SIZE,
            "NORM": r.NORM,
            "CLS_AGNOSTIC_BBOX_REG": r.TRUE_OR_FALSE,
            "TRAIN_ON_PRED_BOXES": r.TRUE_OR_FALSE,
            "USE_FED_LOSS": r.TRUE_OR_FALSE,
            "USE_SIGMOID_CE": r.TRUE_OR_FALSE,
            **_BOX_LOSS,
        },
        _FASTER_RCNN,
    ),
    checked(
        "MODEL.ROI_BOX_HEAD",
        {"FED_LOSS_NUM_CLASSES": r.COUNT, "FED_LOSS_FREQ_WEIGHT_POWER": r.at_least(0, 100)},
        _FASTER_RCNN,
        _HAS_FED_LOSS,
    ),
    checked(
        "MODEL.ROI_BOX_CASCADE_HEAD",
        {"BBOX_REG_WEIGHTS": r.BOX_WEIGHTS_PER_STAGE, "IOUS": r.each(r.POSITIVE_FRACTION)},
        _FASTER_RCNN,
        _IS_CASCADE,
    ),
)
