"""Fits the state in a checkpoint to a training with another optimizer, rate or precision."""

from __future__ import annotations

import logging

from detectron2.solver.lr_scheduler import LRMultiplier
from torch.optim import Optimizer

# options of a parameter group that the config sets; `lr` is computed from the first
_SETTINGS = ("initial_lr", "weight_decay", "momentum", "nesterov")
# options that only one of the optimizers has
_KINDS = ("betas", "momentum")


def fitted_state(state: dict, own: dict) -> dict:
    """Returns the state of a trainer in a checkpoint, with its own state where they do not fit.

    Args:
        state: the state, checked by `check_state_form`.
        own: the state of the trainer before it is loaded.
    """
    loop, own_loop = state.get("_trainer", {}), own["_trainer"]
    fitted = dict(loop)
    if "optimizer" in loop and _kind(loop["optimizer"]) != _kind(own_loop["optimizer"]):
        logging.getLogger(__name__).warning(
            "the state of the optimizer starts anew: the checkpoint has that of another one"
        )
        fitted["optimizer"] = own_loop["optimizer"]
    # the checkpoint is of a training without mixed precision
    if "grad_scaler" in own_loop:
        fitted.setdefault("grad_scaler", own_loop["grad_scaler"])
    return {**state, "_trainer": fitted}


def _kind(optimizer: dict) -> set[str]:
    return {name for group in optimizer.get("param_groups", []) for name in _KINDS if name in group}


def settings_of(optimizer: Optimizer) -> list[dict]:
    """Returns what the config sets in every parameter group."""
    return [{k: group[k] for k in _SETTINGS if k in group} for group in optimizer.param_groups]


def use_settings(optimizer: Optimizer, scheduler: LRMultiplier, settings: list[dict]) -> None:
    """Sets the options of the config again, which loading a checkpoint has replaced.

    The learning rate is that of the schedule in the next iteration. Nothing changes if the config
    is that of the checkpoint.

    Args:
        optimizer: the optimizer, in place.
        scheduler: its learning rate schedule, in place.
        settings: the `settings_of` the optimizer before a checkpoint was loaded.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    scheduler.base_lrs = [own["initial_lr"] for own in settings]
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
