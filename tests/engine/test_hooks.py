"""Hooks that change how a model is trained."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from flowdet.engine.hooks import (
    SeedEveryIteration,
    UpdateAverage,
    average_of,
)


def test_random_numbers_depend_on_the_iteration_and_the_seed_only():
    def draw(iteration, seed=3):
        hook = SeedEveryIteration(seed)
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.before_step()
        return random.random(), np.random.rand(), torch.rand(1).item()

    first = draw(5)
    assert draw(5) == first
    for other in (draw(6), draw(5, seed=4)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_moving_average_by_hand():
    model = nn.BatchNorm1d(1)
    average = average_of(model, 0.75)
    hook = UpdateAverage(average)
    hook.trainer = SimpleNamespace(model=model)
    for weight, mean in ((4.0, 1.0), (8.0, 2.0), (0.0, 3.0)):
        model.weight.data.fill_(weight)
        model.running_mean.fill_(mean)
        hook.after_step()
    # the first weights are copied: 4, then 3/4 * 4 + 1/4 * 8 = 5, then 3/4 * 5 = 3.75
    assert average.module.weight.item() == 3.75
    assert average.module.running_mean.item() == pytest.approx(0.75 * 1.25 + 0.75)
    assert not average.module.weight.requires_grad


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"SOLVER.EMA_DECAY must be between 0 and 1, got {decay}"):
        average_of(nn.Linear(1, 1), decay)
