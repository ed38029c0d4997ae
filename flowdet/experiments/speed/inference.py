"""The time of inference, relative to that of the backbone alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode

from flowdet.detection.base_detector import BaseDetector
from flowdet.engine.config import with_keys
from flowdet.experiments.speed.setup import WARM_UP_ROUNDS, build_detector, ratio, spread
from flowdet.experiments.timing import interleaved_seconds
from flowdet.experiments.training_steps import synthetic_batch

_MODE, _STEPS = "MODEL.FLOW_DET.INFERENCE_MODE", "MODEL.FLOW_DET.NUM_STEPS"
_STABILITY = "MODEL.FLOW_DET.STABILITY_SAMPLES"
# The keys of the inference plans. `default` is that of the config.
PLANS: dict[str, dict[str, object]] = {
    "single_step": {_MODE: "single_step", _STABILITY: 0},
    "4 steps, no stability": {_MODE: "multi_step", _STEPS: 4, _STABILITY: 0},
    "default": {},
    "8 steps": {_MODE: "multi_step", _STEPS: 8},
    "default, CHANNELS_LAST": {"TEST.CHANNELS_LAST": True},
    "default, BFLOAT16": {"TEST.BFLOAT16": True},
    "default, both": {"TEST.CHANNELS_LAST": True, "TEST.BFLOAT16": True},
}


def with_plan(cfg: CfgNode, plan: str) -> CfgNode:
    """Returns a copy of a config for an inference plan, a key of `PLANS`."""
    return with_keys(cfg, PLANS[plan])


def plan_columns(cfg: CfgNode, plan: str) -> dict:
    """Returns the columns of a plan's rows: its name and its keys."""
    node = with_plan(cfg, plan).MODEL.FLOW_DET
    is_single = node.INFERENCE_MODE in ("single_step", "ensemble")
    return {
        "plan": plan,
        "mode": node.INFERENCE_MODE,
        "num_steps": 1 if is_single else node.NUM_STEPS or node.NUM_BLOCKS,
        "stability_samples": node.STABILITY_SAMPLES,
    }


def backbone_call(model: BaseDetector, batch: list[dict]) -> Callable[[], object]:
    """Returns a function that runs the backbone on a batch, without preprocessing."""
    with torch.no_grad():
        images = model.preprocess(batch).tensor
    return torch.no_grad()(partial(model.backbone, images))


def inference_rows(
    cfg: CfgNode, batch_sizes: Sequence[int], rounds: int, plans: Sequence[str] = tuple(PLANS)
) -> list[dict]:
    """Measures every plan relative to the backbone of the same detector in float32.

    Args:
        cfg: the config of a FlowMatchingDetector, see `bench_config`.
        batch_sizes: images per call.
        rounds: measurements; in each the backbone and every plan run once.
        plans: keys of `PLANS`.
    """
    models = {plan: build_detector(with_plan(cfg, plan)) for plan in plans}
    rows = []
    for size in batch_sizes:
        batch = synthetic_batch(cfg, size)
        calls = {"backbone": backbone_call(models[plans[0]], batch)}
        calls |= {plan: partial(model, batch) for plan, model in models.items()}
        with torch.no_grad():
            durations = interleaved_seconds(list(calls.values()), rounds, WARM_UP_ROUNDS)
        seconds = dict(zip(calls, durations))
        for name, values in seconds.items():
            columns = {"part": "inference", "method": "flow", "batch_size": size}
            columns |= plan_columns(cfg, name) if name in PLANS else {"method": name}
            milliseconds = [1000 * x / size for x in values]
            rows.append(columns | {"metric": "ms_per_image"} | spread(milliseconds))
            if name in PLANS:
                relative = ratio(values, seconds["backbone"])
                rows.append(columns | {"metric": "inference_ratio_to_backbone"} | relative)
    return rows
