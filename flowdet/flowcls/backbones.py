"""detectron2 backbones for classification: a plain CNN and torchvision's ViT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig


class StageCNN(Backbone):
    """Stages of 3x3 convolution, batch norm, ReLU and 2x2 max pooling (D.2).

    It returns the feature maps `stage1`, `stage2`, ...; the map of stage k is
    [B, channels, H / 2^k, W / 2^k].

    Args:
        in_channels: number of channels of the images.
        channels: number of channels of each stage.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]):
        super().__init__()
        widths = [in_channels, *channels]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            )
            for before, after in zip(widths[:-1], widths[1:])
        )
        self._shapes = {
            f"stage{k}": ShapeSpec(channels=c, stride=2**k) for k, c in enumerate(channels, start=1)
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def stage(self, index: int, x: Tensor) -> Tensor:
        """Computes the feature map of a stage from the one before; stage 0 gets the images.

        The maps have the memory format channels_last, in which a CPU pools several times faster.
        """
        return self.stages[index](x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for index, name in enumerate(self._shapes):
            x = features[name] = self.stage(index, x)
        return features


class ViTBackbone(Backbone):
    """torchvision's `VisionTransformer`; returns the tokens after every encoder layer.

    Their names are `layer1`, `layer2`, ... They are the class token and the patch tokens,
    [B, 1 + N, d]. The encoder's final norm is applied to the tokens of the last layer.

    Args:
        vit: the transformer. Its classification head is removed.
    """

    def __init__(self, vit: VisionTransformer):
        super().__init__()
        vit.heads = nn.Identity()
        self.vit = vit
        self._names = [f"layer{k}" for k in range(1, len(vit.encoder.layers) + 1)]

    def output_shape(self) -> dict[str, ShapeSpec]:
        spec = ShapeSpec(channels=self.vit.hidden_dim, stride=self.vit.patch_size)
        return dict.fromkeys(self._names, spec)

    def stage(self, index: int, x: Tensor) -> Tensor:
        """Computes the tokens after an encoder layer from those before; layer 0 gets the images.

        Layer 0 includes the embedding of the patches. The encoder's final norm is not applied.
        """
        return self.vit.encoder.layers[index](self._tokens(x) if index == 0 else x)

    def _tokens(self, x: Tensor) -> Tensor:
        encoder = self.vit.encoder
        patches = self.vit._process_input(x)
        class_token = self.vit.class_token.expand(x.shape[0], -1, -1)
        return encoder.dropout(torch.cat([class_token, patches], dim=1) + encoder.pos_embedding)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for index, name in enumerate(self._names):
            x = features[name] = self.stage(index, x)
        features[self._names[-1]] = self.vit.encoder.ln(x)
        return features


@BACKBONE_REGISTRY.register()
def build_cnn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StageCNN:
    """Builds the backbone of `MODEL.CNN`.

    Raises:
        ValueError: `CHANNELS` is empty, or has a number below 1.
    """
    if min(cfg.MODEL.CNN.CHANNELS, default=0) < 1:
        raise ValueError(
            "MODEL.CNN.CHANNELS must give at least one channel for each stage, got "
            f"{cfg.MODEL.CNN.CHANNELS}"
        )
    return StageCNN(input_shape.channels, cfg.MODEL.CNN.CHANNELS)


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTBackbone:
    """Builds the backbone of `MODEL.VIT`, for square images of `INPUT.FIXED_SIZE`.

    Raises:
        ValueError: a key is out of range or unknown, or does not fit another key.
    """
    node = cfg.MODEL.VIT
    for key in ("PATCH_SIZE", "HIDDEN_DIM", "NUM_LAYERS", "NUM_HEADS"):
        if node[key] < 1:
            raise ValueError(f"MODEL.VIT.{key} must be at least 1, got {node[key]}")
    height, width = (*cfg.INPUT.FIXED_SIZE, 0, 0)[:2]
    if height != width or height < 1 or height % node.PATCH_SIZE:
        raise ValueError(
            "a ViT needs square images whose side is a multiple of MODEL.VIT.PATCH_SIZE = "
            f"{node.PATCH_SIZE}, but INPUT.FIXED_SIZE is {[height, width]}"
        )
    if node.HIDDEN_DIM % node.NUM_HEADS:
        raise ValueError(
            f"MODEL.VIT.HIDDEN_DIM = {node.HIDDEN_DIM} is not a multiple of NUM_HEADS = "
            f"{node.NUM_HEADS}"
        )
    if node.STEM not in ("patch", "conv"):
        raise ValueError(f"unknown MODEL.VIT.STEM {node.STEM!r}: use 'patch' or 'conv'")
    vit = VisionTransformer(
        image_size=height,
        patch_size=node.PATCH_SIZE,
        num_layers=node.NUM_LAYERS,
        num_heads=node.NUM_HEADS,
        hidden_dim=node.HIDDEN_DIM,
        mlp_dim=round(node.HIDDEN_DIM * node.MLP_RATIO),
        dropout=node.DROPOUT,
        conv_stem_configs=_conv_stem(node) if node.STEM == "conv" else None,
    )
    return ViTBackbone(vit)


def _conv_stem(node: CfgNode) -> list[ConvStemConfig]:
    """Returns the convolutions of a stem: they halve the size until a position is a patch.

    Each convolution has twice the channels of the previous one.
    """
    count = node.PATCH_SIZE.bit_length() - 1
    if node.PATCH_SIZE != 2**count or node.PATCH_SIZE < 2:
        raise ValueError(
            "MODEL.VIT.STEM conv needs a MODEL.VIT.PATCH_SIZE that is 2 or a higher power of 2, "
            f"got {node.PATCH_SIZE}"
        )
    widths = [max(node.HIDDEN_DIM >> (count - 1 - i), 1) for i in range(count)]
    return [ConvStemConfig(width, 3, 2) for width in widths]
