"""Result files: one JSON form for every number that README or docs quote."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import sys
from pathlib import Path

import torch
import torchvision
from detectron2.config import CfgNode, get_cfg

import flowdet
from flowdet.config import add_flowdet_config
from flowdet.engine.config import flat_items
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.flow import INFERENCE_MODES


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
        rows: one dict per number, e.g. of `result_rows`.
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
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def changed_keys(cfg: CfgNode) -> dict[str, object]:
    """The keys, written with dots, in which a config differs from the defaults of detectron2
    and flowdet; those of the output folder and the class names are left out."""
    defaults = get_cfg()
    add_flowdet_config(defaults)
    before = dict(flat_items(defaults))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat_items(cfg)
        if not isinstance(value, CfgNode)
        and value != before[key]
        and key not in ("OUTPUT_DIR", "MODEL.CLASS_NAMES")
    }


def _machine() -> str:
    """The processor and its cores, or the GPUs."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def result_rows(cfg: CfgNode, dataset: str, tasks: dict[str, dict[str, float]]) -> list[dict]:
    """One row per metric of one trained model.

    Args:
        cfg: its config.
        dataset: it was evaluated on.
        tasks: what the evaluation gave, e.g. `{"bbox": {"AP50": 71.2}}` or
            `{"classification": {"top1-ensemble": 96.1}, "classification_ema": {...}}`; metrics
            that are nan (classes without objects) get no row.
    """
    node = task_of(cfg).keys(cfg)
    common = {
        "method": method_of(cfg),
        "dataset": dataset,
        "num_blocks": node.NUM_BLOCKS,
        "epochs": cfg.SOLVER.MAX_EPOCHS,
        "iterations": cfg.SOLVER.MAX_ITER,
    }
    rows = []
    for task, metrics in tasks.items():
        weights = {"weights": "ema"} if task.endswith("_ema") else {}
        describe = _classification if task.startswith("classification") else _detection
        rows += [
            {**common, **weights, **describe(cfg, name)}
            | {"mean": round(value, 2), "std": None, "n": 1}
            for name, value in metrics.items()
            if not math.isnan(value)
        ]
    return rows


def _detection(cfg: CfgNode, name: str) -> dict:
    """The metric, and how inference uses the blocks: nothing to say for backprop."""
    flow = cfg.MODEL.FLOW_DET
    if cfg.MODEL.META_ARCHITECTURE == "BackpropDetector":
        return {"metric": name}
    steps = flow.NUM_STEPS or flow.NUM_BLOCKS
    multi = INFERENCE_MODES[flow.INFERENCE_MODE].has_steps
    return {"metric": name, "mode": flow.INFERENCE_MODE, "num_steps": steps if multi else 1}


def _classification(cfg: CfgNode, name: str) -> dict:
    """The metric and the mode of a name like `top1-multi_step-8`; without a mode the configured
    one is meant, which is named `default`."""
    metric, mode, *number = [*name.split("-"), "default"][: 3 if name.count("-") == 2 else 2]
    node = cfg.MODEL.FLOW_CLS
    place = {"backbone": backbone_of(cfg), "topology": node.TOPOLOGY}
    if not number:
        return {"metric": metric, "mode": mode, **place}
    key = "block" if mode == "single_step" else "num_steps"
    return {"metric": metric, "mode": mode, key: int(number[0]), **place}


def backbone_of(cfg: CfgNode) -> str:
    """A short name of the backbone: `cnn`, `vit`, `resnet`, ..."""
    return cfg.MODEL.BACKBONE.NAME.removeprefix("build_").removesuffix("_backbone")


def method_of(cfg: CfgNode) -> str:
    """What trained the blocks: `flow`, `backprop`, `backprop_checkpointed`, or with the paper's
    plain parts `flow_paper`, `backprop_paper`; `flow_interpolated` is the paper's training states
    with other parts."""
    task = task_of(cfg)
    node = task.keys(cfg)
    if cfg.MODEL.META_ARCHITECTURE.startswith("Backprop"):
        if task is CLASSIFICATION:
            return "backprop"
        if node.CHECKPOINT_BLOCKS:
            return "backprop_checkpointed"
        return "backprop" if node.ANCHORED_QUERIES else "backprop_paper"
    if node.TRAINING_STATES != "interpolated":
        return "flow"
    plain = node.PREDICTION == "velocity" and not node.SELF_CONDITIONING
    return "flow_paper" if plain else "flow_interpolated"


def typed_command() -> str:
    """The command line of this program, as it is typed in a checkout."""
    program = Path(sys.argv[0]).resolve()
    return shlex.join([f"{program.parent.name}/{program.name}", *sys.argv[1:]])
