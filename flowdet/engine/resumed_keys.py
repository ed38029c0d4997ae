"""Compares the config of a resumed training with that of the run that it continues."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from flowdet.config import flat_items
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.checkpoint_notes import read_notes, run_config
from flowdet.engine.config_effects import why_without_effect
from flowdet.engine.config_types import as_lists

# keys of MODEL that may change: the device, what is only read at the start of a training, and
# inference
_FREE_MODEL_KEYS = {
    *("DEVICE", "WEIGHTS", "REINIT_CLASSES", "CLASS_NAMES", "CATEGORY_IDS", "ITERS_PER_EPOCH"),
    *("FEATURE_CACHE_GIB", "FEATURE_CACHE_DIR", "INFERENCE_MODE", "NUM_STEPS", "EVAL_STEPS"),
    *("SINGLE_STEP_BLOCK", "NOISE_SEED", "EARLY_EXIT", "STABILITY_SAMPLES", "STABILITY_NOISE"),
    *("SCORE_THRESHOLD", "NMS_THRESHOLD", "DDIM_ETA", "BOX_RENEWAL", "ENSEMBLE_STEPS"),
    *("SCORE_THRESH_TEST", "NMS_THRESH_TEST", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TEST"),
    "TOPK_CANDIDATES",
}
# the length and the iterations of its schedule, evaluations and checkpoints may change
_SOLVER_KEYS = (
    *("OPTIMIZER", "BASE_LR", "BACKBONE_MULTIPLIER", "BIAS_LR_FACTOR", "MOMENTUM", "NESTEROV"),
    *("WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "LR_SCHEDULER_NAME"),
    *("WARMUP_METHOD", "WARMUP_FACTOR", "BASE_LR_END", "GAMMA", "NUM_DECAYS", "RESCALE_INTERVAL"),
    *("IMS_PER_BATCH", "EMA_DECAY"),
)
# they name the run and what it starts from, or are computed from others
_UNTOLD_KEYS = {"OUTPUT_DIR", "VERSION", "MODEL.WEIGHTS", "MODEL.CLASS_NAMES"}
_LISTED = 3


def check_resumed_keys(cfg: CfgNode, override: bool = False) -> None:
    """Checks that a resumed training has the model and the optimizer of its run.

    A warning lists the other keys that differ. Keys that the config.yaml of the run does not have,
    and those that have no effect, are not compared.

    Args:
        cfg: the resolved config. Its `OUTPUT_DIR` has the run. Without a checkpoint nothing is
            resumed, and nothing is checked.
        override: whether every key may differ.

    Raises:
        ValueError: a key differs that the trained weights or the state of the optimizer depend on.
    """
    checkpoint = newest_checkpoint(cfg.OUTPUT_DIR)
    if not checkpoint:
        return
    recorded, values = run_config(cfg.OUTPUT_DIR), dict(flat_items(cfg))
    differing = {
        key: f"{key} from {old!r} to {new!r}"
        for key, value in values.items()
        if key not in _UNTOLD_KEYS
        and not isinstance(value, CfgNode)
        and (old := _value(recorded, key, value)) != (new := as_lists(value))
        and not why_without_effect(key, values)
    }
    changed = [text for key, text in differing.items() if _is_compared(key)]
    if changed and not override:
        more = f" and {len(changed) - _LISTED} more keys" if len(changed) > _LISTED else ""
        raise ValueError(
            f"--resume cannot change {', '.join(changed[:_LISTED])}{more}: the run in OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR} has the first value. Set it again, or start anew in another "
            f"OUTPUT_DIR with MODEL.WEIGHTS {checkpoint}; --override continues with the new value"
        )
    if differing:
        logging.getLogger(__name__).warning(
            "--resume changes, after %s: %s", checkpoint, ", ".join(differing.values())
        )


def check_resumed_length(cfg: CfgNode) -> None:
    """Checks that a resumed training is not shorter than what its run has already trained.

    Its results would be those of a longer training than its config and results.json say.

    Args:
        cfg: the resolved config; see `check_resumed_keys`.

    Raises:
        ValueError: the last checkpoint has more iterations than the config.
    """
    checkpoint = newest_checkpoint(cfg.OUTPUT_DIR)
    last = read_notes(checkpoint).iteration if checkpoint else None
    if last is not None and last + 1 > cfg.SOLVER.MAX_ITER:
        raise ValueError(
            f"--resume cannot make the training shorter than it is: {checkpoint} has {last + 1} "
            f"iterations, and SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}. Set SOLVER.MAX_EPOCHS or "
            "MAX_ITER to more, or evaluate an earlier checkpoint with --eval-only"
        )


def _is_compared(key: str) -> bool:
    section, name = key.split(".")[0], key.rpartition(".")[2]
    if section == "MODEL":
        return name not in _FREE_MODEL_KEYS
    return key.removeprefix("SOLVER.") in _SOLVER_KEYS or key.startswith("SOLVER.CLIP_GRADIENTS.")


def _value(recorded: dict, key: str, default: object) -> object:
    """Returns a value of the run's config; the `default` if it has no such key."""
    node: object = recorded
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return as_lists(default)
        node = node[part]
    return as_lists(node)
