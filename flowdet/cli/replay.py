"""`tools/train_net.py --replay`: repeats a training step that was not finite."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from detectron2.config import CfgNode

from flowdet.data.custom.findings import one_line
from flowdet.engine.model_builder import build_model
from flowdet.engine.replay import SavedStep, load_step, repeat_step
from flowdet.engine.resolve import resolve_model
from flowdet.engine.step_check import NON_FINITE


def config_of_step(path: str) -> str:
    """Returns the path of the config.yaml next to a saved step.

    Raises:
        FileNotFoundError: there is none.
    """
    config = Path(path).with_name("config.yaml")
    if not os.path.isfile(config):
        raise FileNotFoundError(
            f"there is no config.yaml in the folder of {path}: give the one of its training with "
            "--config-file"
        )
    return str(config)


def replay(cfg: CfgNode, path: str) -> None:
    """Repeats a saved step and prints its losses and the gradients that are not finite.

    Args:
        cfg: the config of the training, in place.
        path: the file of the step.

    Raises:
        OSError, ValueError: the file cannot be read, or does not fit the config.
    """
    step = load_step(path)
    model = build_model(resolve_model(cfg))
    # the file may be of somebody else
    print(one_line(f"iteration {step.iteration} of the training: {step.problem}"))
    try:
        losses = repeat_step(model, step, amp=cfg.SOLVER.AMP.ENABLED)
    except NON_FINITE as error:
        print(one_line(f"again: {error}"))
        return
    _print_losses(step, {name: float(loss) for name, loss in losses.items()})
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not _is_finite(p.grad)]
    for name in bad:
        print(f"gradient that is not finite: {name}")
    if not bad and all(map(math.isfinite, map(float, losses.values()))):
        print("all losses and gradients are finite now")


def _print_losses(step: SavedStep, losses: dict[str, float]) -> None:
    for name, loss in losses.items():
        print(f"{name}: {loss} (in the training {step.losses.get(name, 'not computed')})")


def _is_finite(x: torch.Tensor) -> bool:
    return bool(x.isfinite().all())
