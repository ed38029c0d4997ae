"""Single training steps, as the measurements take them."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from flowdet.engine.setup import with_keys


def losses(model: nn.Module, batch: list[dict], amp: bool = False) -> torch.Tensor:
    """The sum of a detector's losses; under autocast, as `AMPTrainer` has it, if `amp`."""
    with torch.autocast(model.device.type, enabled=amp):
        return sum(model(batch).values())


def train_step(
    model: nn.Module, batch: list[dict], optimizer: torch.optim.Optimizer, amp: bool = False
) -> None:
    """Forward, backward and update."""
    losses(model, batch, amp).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def made_up_batch(cfg: CfgNode, batch_size: int) -> list[dict]:
    """Images of noise with two objects each, in the form of `FlowDatasetMapper`."""
    height, width = cfg.INPUT.FIXED_SIZE if all(cfg.INPUT.FIXED_SIZE) else (256, 256)
    generator = torch.Generator().manual_seed(0)
    batch = []
    for number in range(batch_size):
        instances = Instances((height, width))
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]])
        instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances, "image_id": f"made_up_{number}"})
    return batch


def for_measuring(cfg: CfgNode) -> CfgNode:
    """A copy that leaves no made-up images in a folder of cached features."""
    return with_keys(cfg, {"MODEL.FLOW_DET.FEATURE_CACHE_DIR": ""})
