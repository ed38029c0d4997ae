"""Hooks that change the training: seeds, moving average."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class SeedEveryIteration(HookBase):
    """Seeds all random generators before every iteration.

    The seed of an iteration follows from `SEED` and the number of the iteration. Noise, times and
    dropout are then the same whether or not the training was interrupted before.

    Args:
        seed: `SEED` of the config.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self):
        # hashed, so that runs with neighboring seeds do not share their noise
        sequence = np.random.SeedSequence([self.seed, self.trainer.iter, comm.get_rank()])
        seed_all_rng(int(sequence.generate_state(1)[0] % 2**31))


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Returns an exponential moving average of weights and buffers. It starts as a copy.

    Args:
        model: the model, without DistributedDataParallel.
        decay: decay per update, between 0 and 1.

    Raises:
        ValueError: the decay is not between 0 and 1.
    """
    if not 0 < decay < 1:
        raise ValueError(f"SOLVER.EMA_DECAY must be between 0 and 1, got {decay}")
    with torch.no_grad():
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)


class UpdateAverage(HookBase):
    """Updates the moving average of the weights after every step."""

    def __init__(self, average: AveragedModel):
        self.average = average

    def after_step(self):
        self.average.update_parameters(getattr(self.trainer.model, "module", self.trainer.model))
