"""Result files: one JSON form for every number that README or docs quote."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from pathlib import Path

import torch
import torchvision
from detectron2.config import CfgNode, get_cfg

import flowdet
from flowdet.config import add_flowdet_config
from flowdet.engine.setup import flat_items


def write_results(
    path: str | Path,
    rows: list[dict],
    *,
    command: str,
    config: str,
    seeds: list[int],
    settings: dict | None = None,
) -> Path:
    """Writes a result file, whole or not at all.

    Args:
        path: of the JSON; its folder is made.
        rows: one dict per number, e.g. of `detection_rows`.
        command: that makes this file.
        config: the config file it was made with.
        seeds: of the runs behind it.
        settings: the keys of the config that are not at their defaults, see `changed_keys`.
    """
    content = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "flowdet": flowdet.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "machine": _machine(),
        "config": config,
        "seeds": seeds,
        **({"settings": settings} if settings else {}),
        "rows": rows,
    }
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> Path:
    """Writes a file, whole or not at all; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    return partial.replace(path)


def changed_keys(cfg: CfgNode) -> dict[str, object]:
    """The keys, written with dots, in which a config differs from the defaults of detectron2
    and flowdet; that of the output folder is left out."""
    defaults = get_cfg()
    add_flowdet_config(defaults)
    before = dict(flat_items(defaults))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat_items(cfg)
        if not isinstance(value, CfgNode) and value != before[key] and key != "OUTPUT_DIR"
    }


def _machine() -> str:
    """The processor and its cores, or the GPUs."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def detection_rows(cfg: CfgNode, dataset: str, metrics: dict[str, float]) -> list[dict]:
    """One row per metric of one trained detector.

    Args:
        cfg: its config.
        dataset: it was evaluated on.
        metrics: of the evaluator, e.g. `{"AP50": 71.2, "AP50-cat": nan}`; those that are nan
            (classes without objects) get no row.
    """
    common = {
        "method": method_of(cfg),
        **_inference(cfg),
        "dataset": dataset,
        "num_blocks": cfg.MODEL.FLOW_DET.NUM_BLOCKS,
        "epochs": cfg.SOLVER.MAX_EPOCHS,
        "iterations": cfg.SOLVER.MAX_ITER,
    }
    return [
        {**common, "metric": name, "mean": round(value, 2), "std": None, "n": 1}
        for name, value in metrics.items()
        if not math.isnan(value)
    ]


def method_of(cfg: CfgNode) -> str:
    """What trained the blocks: `flow`, `backprop`, `backprop_checkpointed`, or with the paper's
    plain parts `flow_paper`, `backprop_paper`."""
    flow = cfg.MODEL.FLOW_DET
    if cfg.MODEL.META_ARCHITECTURE == "BackpropDetector":
        if flow.CHECKPOINT_BLOCKS:
            return "backprop_checkpointed"
        return "backprop" if flow.ANCHORED_QUERIES else "backprop_paper"
    return "flow_paper" if flow.TRAINING_STATES == "interpolated" else "flow"


def _inference(cfg: CfgNode) -> dict:
    """How inference uses the blocks; nothing to say for backprop."""
    flow = cfg.MODEL.FLOW_DET
    if cfg.MODEL.META_ARCHITECTURE == "BackpropDetector":
        return {}
    steps = flow.NUM_STEPS or flow.NUM_BLOCKS
    return {
        "mode": flow.INFERENCE_MODE,
        "num_steps": steps if flow.INFERENCE_MODE.startswith("multi_step") else 1,
    }
