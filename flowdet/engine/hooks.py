"""Training hooks."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class SeedEveryIteration(HookBase):
    """Seeds all random generators from the iteration's number.

    So noise, times and dropout of iteration i are the same whether the training was
    interrupted before it or not.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self):
        # hashed, so that runs with neighbouring seeds do not share their noise
        sequence = np.random.SeedSequence([self.seed, self.trainer.iter, comm.get_rank()])
        seed_all_rng(int(sequence.generate_state(1)[0] % 2**31))


class DropIdleGradients(HookBase):
    """Schedule `alternate` on several processes: blocks that do not learn get no gradient.

    DistributedDataParallel fills in zeros for them, with which an optimizer with momentum or
    weight decay would go on moving them. Register it with the inner trainer, which calls
    `after_backward`.
    """

    def after_backward(self):
        model = getattr(self.trainer.model, "module", self.trainer.model)
        for k, block in enumerate(model.flow.blocks):
            if k not in model.local.active_blocks:
                for parameter in block.parameters():
                    parameter.grad = None


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers, which starts as a copy.

    Args:
        model: without DistributedDataParallel.
        decay: between 0 and 1, per update.

    Raises:
        ValueError: another decay.
    """
    if not 0 < decay < 1:
        raise ValueError(f"SOLVER.EMA_DECAY must be between 0 and 1, got {decay}")
    with torch.no_grad():
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)


class UpdateAverage(HookBase):
    """Updates an average of the weights after every step."""

    def __init__(self, average: AveragedModel):
        self.average = average

    def after_step(self):
        self.average.update_parameters(getattr(self.trainer.model, "module", self.trainer.model))
