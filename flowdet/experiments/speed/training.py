"""The time of a training step, relative to that of the same blocks trained by backpropagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from flowdet.engine import build_optimizer
from flowdet.engine.model_builder import build_model
from flowdet.experiments.speed.setup import SEED, WARM_UP_ROUNDS, ratio, spread
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch, train_step


def step_rows(
    cfgs: Mapping[str, CfgNode], name: str, batch_sizes: Sequence[int], rounds: int
) -> list[dict]:
    """Measures a training step of every method: forward, backward and update.

    Args:
        cfgs: a config by method; `backprop` is the reference.
        name: the config of the flow detector, a column of the rows.
        batch_sizes: images per step.
        rounds: measurements; in each every method takes one step.
    """
    rows = []
    for size in batch_sizes:
        calls = [training_call(cfg, size) for cfg in cfgs.values()]
        # some models log scalars, which needs a storage
        with EventStorage():
            durations = interleaved_seconds(calls, rounds, WARM_UP_ROUNDS)
        seconds = dict(zip(cfgs, durations))
        for method, values in seconds.items():
            columns = {"part": "training", "config": name, "method": method, "batch_size": size}
            rows.append(columns | {"metric": "ms_per_step"} | spread([1000 * x for x in values]))
            if method != "backprop":
                relative = ratio(values, seconds["backprop"])
                rows.append(columns | {"metric": "step_time_ratio_to_backprop"} | relative)
    return rows


def training_call(cfg: CfgNode, batch_size: int) -> partial:
    """Returns a function that takes one training step on a fixed batch."""
    torch.manual_seed(SEED)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    batch = synthetic_batch(cfg, batch_size)
    return partial(train_step, model, batch, optimizer, cfg.SOLVER.AMP.ENABLED)
