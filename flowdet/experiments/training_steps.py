"""Single training steps, as the measurements take them."""

from __future__ import annotations

from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from torch import nn

from flowdet.engine import FlowDetCheckpointer, build_optimizer
from flowdet.engine.config import with_keys
from flowdet.engine.task_builders import task_of


def losses(model: nn.Module, batch: list[dict], amp: bool = False) -> torch.Tensor:
    """The sum of a model's losses; under autocast, as `AMPTrainer` has it, if `amp`."""
    with torch.autocast(model.device.type, enabled=amp):
        return sum(model(batch).values())


def train_step(
    model: nn.Module, batch: list[dict], optimizer: torch.optim.Optimizer, amp: bool = False
) -> None:
    """Forward, backward and update."""
    losses(model, batch, amp).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class ShortTraining:
    """Trains a model a little, to be looked at on the same batches again and again.

    Args:
        cfg: resolved.
        num_batches: kept to be looked at; the batches after them are trained on.
    """

    def __init__(self, cfg: CfgNode, num_batches: int):
        self.cfg = cfg
        seed_all_rng(max(cfg.SEED, 0))
        self.model = build_model(cfg).train()
        FlowDetCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.optimizer = build_optimizer(cfg, self.model)
        self._loader = iter(task_of(cfg).build_train_loader(cfg))
        self.batches = list(islice(self._loader, num_batches))
        self.iteration = 0

    def train_until(self, iteration: int) -> None:
        """Plain training steps at `SOLVER.BASE_LR`."""
        while self.iteration < iteration:
            seed_all_rng(max(self.cfg.SEED, 0) + self.iteration)
            train_step(self.model, next(self._loader), self.optimizer)
            self.iteration += 1


def synthetic_batch(cfg: CfgNode, batch_size: int) -> list[dict]:
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
