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
from detectron2.config import CfgNode

import flowdet


def write_results(
    path: str | Path, rows: list[dict], *, command: str, config: str, seeds: list[int]
) -> Path:
    """Writes a result file, whole or not at all.

    Args:
        path: of the JSON; its folder is made.
        rows: one dict per number, e.g. of `detection_rows`.
        command: that makes this file.
        config: the config file it was made with.
        seeds: of the runs behind it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
        "rows": rows,
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return partial.rename(path)


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
        **_method(cfg),
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


def _method(cfg: CfgNode) -> dict:
    """What trained the blocks, and how inference used them."""
    flow = cfg.MODEL.FLOW_DET
    if cfg.MODEL.META_ARCHITECTURE == "BackpropDetector":
        return {"method": "backprop_checkpointed" if flow.CHECKPOINT_BLOCKS else "backprop"}
    steps = flow.NUM_STEPS or flow.NUM_BLOCKS
    return {
        "method": "flow_paper" if flow.TRAINING_STATES == "interpolated" else "flow",
        "mode": flow.INFERENCE_MODE,
        "num_steps": steps if flow.INFERENCE_MODE.startswith("multi_step") else 1,
    }
