"""Proposals: boxes that a region proposal network finds, for denoising queries.

The network is detectron2's RPN on the image tokens. It belongs to the shared parts of the model,
like the neck: it has its own losses, and no block passes a gradient to it. Only training uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from flowdet.detection.proposal_keys import check_proposal_queries, one_line_errors
from flowdet.detection.targets import Targets
from flowdet.detection.tokens import ImageTokens, token_maps
from flowdet.events import with_event_storage
from flowdet.flow import NonFiniteError

# prefixes of the tensors of a detector's proposal network, which inference does not use
PROPOSAL_TENSORS = ("proposal_network.",)


class Proposals(NamedTuple):
    """The proposals of a batch, and the losses of the network that made them.

    Attributes:
        boxes: [B, P, 4], normalized cxcywh, without gradient; None without a network.
        losses: the losses, to be added to those of the model.
    """

    boxes: Tensor | None
    losses: dict[str, Tensor]


class ProposalNetwork(nn.Module):
    """detectron2's region proposal network (RPN) on image tokens.

    Args:
        rpn: detectron2's `RPN`.
        strides: the stride of each feature map, by the name that `rpn` knows.
    """

    def __init__(self, rpn: nn.Module, strides: dict[str, int]):
        super().__init__()
        self.rpn = rpn
        self.strides = strides
        self._warned_of_none = False

    def forward(self, tokens: ImageTokens, targets: Targets) -> Proposals:
        """Computes the proposals of every image, and the losses of the network.

        An image with fewer proposals than another one repeats its own. An image without proposals
        has one: the whole image. If a whole batch has none, it logs a warning, once per training.

        Args:
            tokens: the image tokens.
            targets: the objects. Those that are dropped for one-to-one matching are used too.

        Raises:
            NonFiniteError: a proposal is NaN or inf.
        """
        sizes = self._image_sizes(tokens)
        features = dict(zip(self.strides, token_maps(tokens), strict=True))
        try:
            with with_event_storage():
                found, losses = self.rpn(
                    ImageList(tokens.tokens.new_empty(0), sizes),
                    features,
                    _instances(targets.complete, sizes),
                )
        except FloatingPointError as error:
            raise NonFiniteError(
                "the proposals are not finite, so the training has diverged: lower SOLVER.BASE_LR, "
                "or lengthen the warm-up (SOLVER.WARMUP_ITERS)"
            ) from error
        if not any(map(len, found)):
            self._warn_of_none()
        return Proposals(_normalized(found), losses)

    def _warn_of_none(self) -> None:
        if not self._warned_of_none:
            self._warned_of_none = True
            logging.getLogger(__name__).warning(
                "the proposal network finds no proposal in a batch of images: the queries of "
                "MODEL.FLOW_DET.PROPOSAL_QUERIES start at the whole image. If that is not due to "
                "the images, lower MODEL.PROPOSAL_GENERATOR.MIN_SIZE. This warning appears once"
            )

    def _image_sizes(self, tokens: ImageTokens) -> list[tuple[int, int]]:
        """Returns (height, width) of each image without padding, in pixels."""
        grid, stride = tokens.grids[0], next(iter(self.strides.values()))
        padded = grid.extent.new_tensor([grid.width * stride, grid.height * stride])
        sizes = (padded / grid.extent).round().long().expand(len(tokens.tokens), -1)
        return [(height, width) for width, height in sizes.tolist()]


def propose(network: ProposalNetwork | None, tokens: ImageTokens, targets: Targets) -> Proposals:
    """Returns the proposals and losses of a network; without a network there are none."""
    return Proposals(None, {}) if network is None else network(tokens, targets)


def build_proposal_network(
    cfg: CfgNode, names: Sequence[str], strides: Sequence[int | None]
) -> ProposalNetwork | None:
    """Builds the network of `MODEL.RPN`; None without `MODEL.FLOW_DET.PROPOSAL_QUERIES`.

    Args:
        cfg: the config.
        names: the names of the feature maps of the neck.
        strides: their strides, None if unknown.

    Raises:
        ValueError: a stride is unknown, a key has a value that the network does not use, or the
            keys do not fit each other.
    """
    if not cfg.MODEL.FLOW_DET.PROPOSAL_QUERIES:
        return None
    if not all(strides):
        raise ValueError(
            "MODEL.FLOW_DET.PROPOSAL_QUERIES needs the strides of the feature maps "
            f"{', '.join(names)}, but the output_shape of the backbone {cfg.MODEL.BACKBONE.NAME} "
            "has none: set PROPOSAL_QUERIES 0"
        )
    check_proposal_queries(cfg, list(names))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.RPN.IN_FEATURES = list(names)
    shapes = {
        name: ShapeSpec(channels=cfg.MODEL.FLOW_DET.HIDDEN_DIM, stride=stride)
        for name, stride in zip(names, strides, strict=True)
    }
    with one_line_errors("MODEL.RPN and MODEL.ANCHOR_GENERATOR"):
        rpn = build_proposal_generator(cfg, shapes)
    return ProposalNetwork(rpn, {name: shape.stride for name, shape in shapes.items()})


def _instances(targets: Targets, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
    """Returns the objects of every image as detectron2's ground truth (absolute xyxy).

    Boxes without area are left out: the logarithm of their size is not finite.
    """
    objects = []
    for boxes, count, (height, width) in zip(targets.boxes, targets.counts, sizes, strict=True):
        scale = boxes.new_tensor([width, height, width, height])
        absolute = box_convert(boxes[:count], "cxcywh", "xyxy") * scale
        found = Boxes(absolute)
        objects.append(Instances((height, width), gt_boxes=found[found.nonempty()]))
    return objects


def _normalized(proposals: Sequence[Instances]) -> Tensor:
    """Returns the boxes of all images, [B, P, 4], normalized cxcywh."""
    count = max(1, *map(len, proposals))
    rows = []
    for x in proposals:
        height, width = x.image_size
        boxes = x.proposal_boxes.tensor
        if not len(boxes):
            boxes = boxes.new_tensor([[0, 0, width, height]])
        boxes = boxes[torch.arange(count, device=boxes.device) % len(boxes)]
        rows.append(boxes / boxes.new_tensor([width, height, width, height]))
    return box_convert(torch.stack(rows), "xyxy", "cxcywh")
