"""A narrow ResNet for small images and CPUs. Other ResNets come from detectron2."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Builds a ResNet with a stem, res2 (stride 4) and res3 (stride 8), of basic blocks.

    `MODEL.SMALL_RESNET` has the numbers of channels and blocks. `MODEL.RESNETS` has the
    normalization (`NORM`) and the feature maps that are returned (`OUT_FEATURES`).
    """
    norm = cfg.MODEL.RESNETS.NORM
    stem_channels, *channels = cfg.MODEL.SMALL_RESNET.CHANNELS
    stages, width = [], stem_channels
    for i, (out, count) in enumerate(zip(channels, cfg.MODEL.SMALL_RESNET.BLOCKS, strict=True)):
        strides = [1 if i == 0 else 2] + [1] * (count - 1)
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                count,
                in_channels=width,
                out_channels=out,
                norm=norm,
                stride_per_block=strides,
            )
        )
        width = out
    stem = BasicStem(input_shape.channels, stem_channels, norm)
    return ResNet(stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES)
