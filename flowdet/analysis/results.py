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
        "machine": describe_machine(),
        "config": config,
        "seeds": seeds,
        "rows": rows,
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return partial.rename(path)


def describe_machine() -> str:
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
    flow = cfg.MODEL.FLOW_DET
    common = {
        "method": "flow_paper" if flow.TRAINING_STATES == "interpolated" else "flow",
        "dataset": dataset,
        "num_blocks": flow.NUM_BLOCKS,
        "num_steps": flow.NUM_STEPS or flow.NUM_BLOCKS,
        "mode": flow.INFERENCE_MODE,
        "epochs": cfg.SOLVER.MAX_EPOCHS,
        "iterations": cfg.SOLVER.MAX_ITER,
    }
    if not common["mode"].startswith("multi_step"):
        common["num_steps"] = 1
    return [
        {**common, "metric": name, "mean": round(value, 2), "std": None, "n": 1}
        for name, value in metrics.items()
        if not math.isnan(value)
    ]
