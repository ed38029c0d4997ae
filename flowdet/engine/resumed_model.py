"""Checks that `--resume` continues a run with the same trained parameters and optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from flowdet.config import add_flowdet_config
from flowdet.engine.checkpoint_notes import last_checkpoint, read_checkpoint, run_config
from flowdet.engine.config import with_keys
from flowdet.engine.optimizer import build_optimizer

# keys that decide the parameters or their grouping in the optimizer, apart from those in MODEL
_OTHER_KEYS = (
    "SOLVER.OPTIMIZER",
    "SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.AMP.ENABLED",
    "INPUT.FIXED_SIZE",
)
# keys in MODEL that do not
_IRRELEVANT_KEYS = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.CLASS_NAMES",
    "MODEL.CATEGORY_IDS",
    "MODEL.FLOW_DET.FEATURE_CACHE_DIR",
    "MODEL.FLOW_DET.FEATURE_CACHE_GIB",
    "MODEL.FLOW_DET.ITERS_PER_EPOCH",
    "MODEL.FLOW_CLS.ITERS_PER_EPOCH",
)
# the differing keys of these names come first in the message
_FIRST_KEYS = ("MODEL.META_ARCHITECTURE", "SOLVER.OPTIMIZER", "MODEL.BACKBONE.NAME")
# a message lists at most this many keys
_MAX_LISTED = 6


def check_resumed_config(cfg: CfgNode) -> None:
    """Compares the model and the optimizer of a config with those of the run in `OUTPUT_DIR`.

    Both are built on the CPU, if the config.yaml of the run has other values of the keys that
    decide them.

    Args:
        cfg: a resolved config.

    Raises:
        ValueError: as `check_resumed_model`.
    """
    if not last_checkpoint(cfg.OUTPUT_DIR):
        return
    if run_config(cfg.OUTPUT_DIR) and not _differing_keys(cfg):
        return
    built = with_keys(cfg, {"MODEL.DEVICE": "cpu", "MODEL.FLOW_DET.FEATURE_CACHE_GIB": 0.0})
    model = build_model(built)
    check_resumed_model(cfg, model, build_optimizer(built, model))


def check_resumed_model(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Compares a model and its optimizer with the last checkpoint of the run in `OUTPUT_DIR`.

    Args:
        cfg: the config of both.
        model: the model, without DistributedDataParallel.
        optimizer: its optimizer.

    Raises:
        ValueError: the checkpoint has other trained parameters or another optimizer. The message
            has the keys that differ from the config.yaml of the run.
    """
    path = last_checkpoint(cfg.OUTPUT_DIR)
    content = read_checkpoint(path) if path else {}
    trained = content.get("trainer", {}).get("_trainer", {})
    # a checkpoint of another program, or one without an optimizer: loading it raises the error
    if "optimizer" not in trained or not isinstance(content.get("model"), dict):
        return
    reason = (
        _other_parameters(content["model"], model)
        or _other_optimizer(trained["optimizer"], optimizer)
        or ("precision" if cfg.SOLVER.AMP.ENABLED and "grad_scaler" not in trained else "")
    )
    if not reason:
        return
    listed = _listed(_differing_keys(cfg))
    keys = (
        f"these keys differ from its config.yaml: {listed}"
        if listed
        else "it was trained with another config or another version of the model"
    )
    raise ValueError(
        f"--resume cannot change the trained parameters or the optimizer: the run in OUTPUT_DIR "
        f"{cfg.OUTPUT_DIR} has another {reason}; {keys}. Use the config of the run, or start anew "
        "in another OUTPUT_DIR"
    )


def _other_parameters(state: dict, model: nn.Module) -> str:
    """Names the first parameter that a state dict lacks or has with another shape; "" for none."""
    shapes = {name.removeprefix("module."): tuple(np.shape(x)) for name, x in state.items()}
    for name, parameter in model.named_parameters():
        if shapes.get(name) != tuple(parameter.shape):
            return f"model ({name})"
    return ""


def _other_optimizer(state: dict, optimizer: torch.optim.Optimizer) -> str:
    """Names the optimizer if its state is of another kind or has other groups; "" otherwise."""

    def kind(groups: Sequence[dict]) -> str:
        return "AdamW" if "betas" in groups[0] else "SGD"

    groups, own = state["param_groups"], optimizer.param_groups
    if groups and own and kind(groups) != kind(own):
        return f"optimizer ({kind(groups)})"
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own]:
        return "number or grouping of trained parameters"
    return ""


def _differing_keys(cfg: CfgNode) -> dict[str, tuple[object, object]]:
    """Returns the values in the run and in the config of every relevant key in which they differ.

    A key that the config.yaml of the run lacks has its default value.
    """
    run = run_config(cfg.OUTPUT_DIR)
    if not run:
        return {}
    defaults = get_cfg()
    add_flowdet_config(defaults)
    trained = _values(defaults) | _values(run)
    differing = {
        key: (trained.get(key), value)
        for key, value in _values(cfg).items()
        if trained.get(key) != value and _is_relevant(key)
    }
    first = [key for key in _FIRST_KEYS if key in differing]
    return {key: differing[key] for key in [*first, *differing]}


def _is_relevant(key: str) -> bool:
    return key in _OTHER_KEYS or (key.startswith("MODEL.") and key not in _IRRELEVANT_KEYS)


def _values(keys: dict, prefix: str = "") -> dict[str, object]:
    """Returns the values of a config, or of the content of a config.yaml, by full key."""
    values = {}
    for name, value in keys.items():
        if isinstance(value, dict):
            values |= _values(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = _as_list(value)
    return values


def _as_list(value: object) -> object:
    """Converts tuples to lists, because YAML has only lists."""
    return [_as_list(x) for x in value] if isinstance(value, (list, tuple)) else value


def _listed(differing: dict[str, tuple[object, object]]) -> str:
    items = [f"{key} {trained!r} (here {own!r})" for key, (trained, own) in differing.items()]
    more = len(items) - _MAX_LISTED
    return ", ".join(items[:_MAX_LISTED]) + (f" and {more} more keys" if more > 0 else "")
