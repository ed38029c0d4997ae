"""The few keys of a config that users set for inference, by short names."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.detection import FlowMatchingDetector
from flowdet.engine.config import load_config
from flowdet.engine.task_builders import task_of
from flowdet.flow import INFERENCE_MODES
from flowdet.flowcls.classifier import FlowMatchingClassifier


def inference_config(
    path: str,
    overrides: Sequence = (),
    *,
    device: str | None = None,
    mode: str | None = None,
    steps: int | None = None,
    block: int | None = None,
    batch_size: int | None = None,
) -> CfgNode:
    """A config file with overrides, then with what is not None.

    Args:
        overrides: `[KEY, value, KEY, value, ...]`.
        device: `MODEL.DEVICE`.
        mode: `INFERENCE_MODE` of the task's node.
        steps: `NUM_STEPS`, of the multi-step modes.
        block: `SINGLE_STEP_BLOCK`, of `single_step`.
        batch_size: `TEST.BATCH_SIZE`.

    Raises:
        FileNotFoundError, KeyError: as `load_config`.
        ValueError: what the model or its inference mode does not read.
    """
    node = f"MODEL.{task_of(load_config(path, list(overrides))).node}"
    keys = {
        "MODEL.DEVICE": device,
        f"{node}.INFERENCE_MODE": mode,
        f"{node}.NUM_STEPS": steps,
        f"{node}.SINGLE_STEP_BLOCK": block,
        "TEST.BATCH_SIZE": batch_size,
    }
    given = [x for key, value in keys.items() if value is not None for x in (key, value)]
    cfg = load_config(path, [*overrides, *given])
    _check_mode(cfg, mode, steps, block)
    return cfg


def has_inference_modes(cfg: CfgNode) -> bool:
    """Whether the model of a config reads the `INFERENCE_MODE` of its node."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return issubclass(architecture, (FlowMatchingDetector, FlowMatchingClassifier))


def _check_mode(cfg: CfgNode, mode: str | None, steps: int | None, block: int | None) -> None:
    """See `inference_config`."""
    task = task_of(cfg)
    given = (mode, steps, block) != (None, None, None)
    if given and not has_inference_modes(cfg):
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} has no inference modes: leave out mode, steps and "
            "block"
        )
    configured = task.keys(cfg).INFERENCE_MODE
    if configured not in INFERENCE_MODES:
        raise ValueError(
            f"unknown inference mode {configured!r}: use one of {', '.join(INFERENCE_MODES)}"
        )
    parameter = INFERENCE_MODES[configured].parameter
    if steps is not None and parameter != "steps":
        raise ValueError(f"steps is for the multi-step modes, not for {configured}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if block is not None and parameter != "block":
        raise ValueError(f"block is for mode single_step, not for {configured}")
