"""Loads the config of a trained model with the inference options that the user chooses."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from flowdet.config import inference_settings
from flowdet.config.errors import UsageError
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
    trust_config: bool = False,
) -> CfgNode:
    """Loads a config file with overrides and inference options. Options that are not None have
    precedence.

    Args:
        path: path or name of the config file.
        overrides: `[KEY, value, KEY, value, ...]`.
        device: sets `MODEL.DEVICE`.
        mode: sets `INFERENCE_MODE` of the model.
        steps: sets `NUM_STEPS`, the Euler steps of the multi-step modes.
        block: sets `SINGLE_STEP_BLOCK`, the block of mode `single_step`.
        batch_size: sets `TEST.BATCH_SIZE`.
        trust_config: see `load_config`.

    Raises:
        FileNotFoundError, KeyError: as `load_config`.
        ValueError: an option does not apply to the model or to its inference mode, or
            `InferencePlan.check` rejects the plan.
    """
    cfg = load_config(path, list(overrides), trust_config=trust_config)
    node = f"MODEL.{task_of(cfg).node}"
    keys = {
        "MODEL.DEVICE": device,
        f"{node}.INFERENCE_MODE": mode,
        f"{node}.NUM_STEPS": steps,
        f"{node}.SINGLE_STEP_BLOCK": block,
        "TEST.BATCH_SIZE": batch_size,
    }
    given = [x for key, value in keys.items() if value is not None for x in (key, value)]
    cfg = load_config(path, [*overrides, *given], trust_config=trust_config)
    options = {"mode": mode, "steps": steps, "block": block}
    _check_options(cfg, {name: x for name, x in options.items() if x is not None})
    return cfg


def _check_options(cfg: CfgNode, options: dict[str, object]) -> None:
    """Raises ValueError if one of the options `mode`, `steps` and `block` does not apply."""
    name = cfg.MODEL.META_ARCHITECTURE
    if not issubclass(META_ARCH_REGISTRY.get(name), (FlowMatchingDetector, FlowMatchingClassifier)):
        if options:
            raise UsageError(f"a {name} has no inference modes: leave out {', '.join(options)}")
        return
    node = task_of(cfg).keys(cfg)
    plan = inference_settings(node).plan
    # NUM_STEPS 0 of a config means one step per block; the option `steps` has no such value
    try:
        plan._replace(num_steps=options.get("steps", plan.num_steps)).check(node.NUM_BLOCKS)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for option in ("steps", "block"):
        if option in options and INFERENCE_MODES[plan.mode].parameter != option:
            modes = sorted(m for m, kind in INFERENCE_MODES.items() if kind.parameter == option)
            raise UsageError(f"{option} is for mode {' or '.join(modes)}, not for {plan.mode}")
