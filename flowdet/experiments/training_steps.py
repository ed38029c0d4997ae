"""Runs single training steps and short trainings for the measurements."""

from __future__ import annotations

from itertools import islice

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from torch import nn

from flowdet.engine import FlowDetCheckpointer, build_optimizer
from flowdet.engine.config import with_keys
from flowdet.engine.model_builder import build_model
from flowdet.engine.task_builders import task_of


def total_loss(model: nn.Module, batch: list[dict], amp: bool = False) -> torch.Tensor:
    """Sums a model's losses for a batch to a scalar; with `amp` under autocast."""
    with torch.autocast(model.device.type, enabled=amp):
        return sum(model(batch).values())


def train_step(
    model: nn.Module, batch: list[dict], optimizer: torch.optim.Optimizer, amp: bool = False
) -> None:
    """Runs one training step: forward, backward and update."""
    total_loss(model, batch, amp).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class ShortTraining:
    """Trains a model for a few iterations, with fixed batches on which it can be measured.

    Args:
        cfg: the resolved config.
        num_batches: the number of batches at the start of the loader that are kept for the
            measurements; the model is trained on the batches after them.

    Attributes:
        batches: the kept batches.
        iteration: the number of training steps so far.
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
        """Trains until this iteration, at the constant learning rate `SOLVER.BASE_LR`."""
        while self.iteration < iteration:
            seed_all_rng(max(self.cfg.SEED, 0) + self.iteration)
            train_step(self.model, next(self._loader), self.optimizer)
            self.iteration += 1


def synthetic_batch(cfg: CfgNode, batch_size: int) -> list[dict]:
    """Returns noise images in the format of the training loaders.

    Each has two objects for detectors, and one of two labels for classifiers; with
    INPUT.SECOND_VIEW also a second view `image2`. The images have the size `INPUT.FIXED_SIZE`, or
    256x256 pixels if it is not set.
    """
    height, width = cfg.INPUT.FIXED_SIZE if all(cfg.INPUT.FIXED_SIZE) else (256, 256)
    generator = torch.Generator().manual_seed(0)
    batch = []
    for number in range(batch_size):
        instances = Instances((height, width))
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]])
        instances.gt_boxes = Boxes(boxes * torch.tensor([width, height, width, height]))
        instances.gt_classes = torch.zeros(2, dtype=torch.long)
        targets = {"instances": instances, "label": number % 2}
        views = {
            name: torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
            for name in (("image", "image2") if cfg.INPUT.SECOND_VIEW else ("image",))
        }
        batch.append({"image_id": f"synthetic_{number}", **views, **targets})
    return batch


def without_feature_cache(cfg: CfgNode) -> CfgNode:
    """Returns a copy of a config without a feature cache on disk, for use with synthetic images."""
    return with_keys(cfg, {"MODEL.FLOW_DET.FEATURE_CACHE_DIR": ""})
