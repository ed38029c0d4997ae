import random
from types import SimpleNamespace

import torch

from flowdet.engine.hooks import DropIdleGradients, SeedEveryIteration
from tests.detection.tiny import batch, tiny_model


def test_random_numbers_depend_on_the_iteration_only():
    def draw(iteration):
        hook = SeedEveryIteration(3)
        hook.trainer = SimpleNamespace(iter=iteration)
        hook.before_step()
        return random.random(), torch.rand(1).item()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_idle_blocks_lose_their_gradients():
    model = tiny_model(SCHEDULE="alternate", PASS_LENGTH=1)
    sum(model(batch()).values()).backward()
    for p in model.parameters():
        # what DistributedDataParallel does
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    hook = DropIdleGradients()
    hook.trainer = SimpleNamespace(model=model)
    hook.after_backward()
    assert model.learning == [0]
    for name, p in model.named_parameters():
        idle = name.startswith("flow.blocks.") and not name.startswith("flow.blocks.0.")
        assert (p.grad is None) == idle, name
