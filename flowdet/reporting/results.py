"""Result files: the JSON files with the numbers that README and docs quote."""

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
from flowdet.config import add_flowdet_config, flat_items
from flowdet.engine.atomic_file import write_atomically
from flowdet.engine.task_builders import CLASSIFICATION, task_of
from flowdet.flow import INFERENCE_MODES

# names in result files of the methods that have no flow blocks, by meta-architecture
_METHODS_WITHOUT_BLOCKS = {
    "FasterRCNNDetector": "faster_rcnn",
    "FCOSDetector": "fcos",
    "ForwardForwardClassifier": "ff",
    "StochasticForwardForwardClassifier": "sff",
    "ContrastiveForwardForwardClassifier": "cff",
    "SymBaClassifier": "symba",
    "LayerCollaborationClassifier": "collab",
    "NoPropClassifier": "noprop",
    "SoftHebbClassifier": "softhebb",
}


def write_results(
    path: str | Path,
    rows: list[dict],
    *,
    command: str,
    config: str,
    seeds: list[int],
    settings: dict | None = None,
) -> Path:
    """Writes a result file; an interrupted call leaves no partial file.

    Args:
        path: the path of the JSON file; its folder is created.
        rows: one dict per number, e.g. from `result_rows`.
        command: the command that writes this file.
        config: the config file of the results.
        seeds: the seeds of the runs.
        settings: the config keys with values other than their defaults, see `changed_keys`.

    Returns:
        The path of the file.

    Raises:
        ValueError: a value is nan or infinite.
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
        "machine": describe_machine(),
        "config": config,
        "seeds": seeds,
        **({"settings": settings} if settings else {}),
        "rows": rows,
    }
    return write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file and creates its folder; an interrupted call leaves no partial file.

    Bytes of file names that are not UTF-8 are escaped as \\udcXX, which JSON reads as these bytes.

    Raises:
        OSError: the file cannot be written.
    """
    path, content = Path(path), text.encode(errors="backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, lambda file: file.write(content), len(content))


def changed_keys(cfg: CfgNode) -> dict[str, object]:
    """Returns the keys in which a config differs from the defaults of detectron2 and flowdet, with
    their values. The output folder, the class names and the category ids are left out."""
    default_cfg = get_cfg()
    add_flowdet_config(default_cfg)
    defaults = dict(flat_items(default_cfg))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flat_items(cfg)
        if not isinstance(value, CfgNode)
        and value != defaults[key]
        and key not in ("OUTPUT_DIR", "MODEL.CLASS_NAMES", "MODEL.CATEGORY_IDS")
    }


def describe_machine() -> str:
    """Describes the GPUs of this machine, or its CPU cores and the threads that PyTorch uses."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    used = f"{threads} thread{'s' if threads != 1 else ''}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {used}"


def result_rows(
    cfg: CfgNode,
    dataset: str,
    tasks: dict[str, dict[str, float]],
    length: dict[str, int] | None = None,
) -> list[dict]:
    """Converts the metrics of a trained model to rows of a result file, one row per metric.

    Args:
        cfg: the config of the model.
        dataset: the name of the dataset that it was evaluated on.
        tasks: the results of the evaluation, e.g. `{"bbox": {"AP50": 71.2}}` or
            `{"classification": {"top1-ensemble": 96.1}, "classification_ema": {...}}`. A metric
            that is nan (a class without objects) gets no row.
        length: the epochs and iterations of the training, as far as they are known. None takes
            those of the config, which is right only for a training that this config ran.
    """
    node = task_of(cfg).keys(cfg)
    if length is None:
        length = {"epochs": cfg.SOLVER.MAX_EPOCHS, "iterations": cfg.SOLVER.MAX_ITER}
    common = {
        "method": method_of(cfg),
        "dataset": dataset,
        **({"num_blocks": node.NUM_BLOCKS} if has_blocks(cfg) else {}),
        **length,
    }
    rows = []
    for task, metrics in tasks.items():
        weights = {"weights": "ema"} if task.endswith("_ema") else {}
        is_classification = task.startswith("classification")
        columns = _classification_columns if is_classification else _detection_columns
        rows += [
            {**common, **weights, **columns(cfg, name)}
            | {"mean": round(value, 2), "std": None, "n": 1}
            for name, value in metrics.items()
            if not math.isnan(value)
        ]
    return rows


def _detection_columns(cfg: CfgNode, name: str) -> dict:
    """Returns the metric; for a flow detector also the inference mode and the number of steps.

    For a detector with noise on boxes it also returns the number of steps.
    """
    flow = cfg.MODEL.FLOW_DET
    if cfg.MODEL.META_ARCHITECTURE == "BackpropDetector" or not has_blocks(cfg):
        return {"metric": name}
    if cfg.MODEL.META_ARCHITECTURE == "BoxTransportDetector":
        return {"metric": name, "num_steps": cfg.MODEL.BOX_TRANSPORT.NUM_STEPS}
    steps = flow.NUM_STEPS or flow.NUM_BLOCKS
    multi = INFERENCE_MODES[flow.INFERENCE_MODE].has_steps
    return {"metric": name, "mode": flow.INFERENCE_MODE, "num_steps": steps if multi else 1}


def _classification_columns(cfg: CfgNode, name: str) -> dict:
    """Splits a name such as `top1-multi_step-8` into metric and inference mode; adds the model.

    A name without a mode, such as `top1`, gets the mode `default`, which is the configured mode.
    """
    metric, mode, *number = [*name.split("-"), "default"][: 3 if name.count("-") == 2 else 2]
    topology = {"topology": cfg.MODEL.FLOW_CLS.TOPOLOGY} if has_blocks(cfg) else {}
    model = {"backbone": backbone_of(cfg), **topology}
    if not number:
        return {"metric": metric, "mode": mode, **model}
    key = "block" if mode == "single_step" else "num_steps"
    return {"metric": metric, "mode": mode, key: int(number[0]), **model}


def backbone_of(cfg: CfgNode) -> str:
    """Returns the short name of the backbone: `cnn`, `vit`, `resnet`, ..."""
    return cfg.MODEL.BACKBONE.NAME.removeprefix("build_").removesuffix("_backbone")


def has_blocks(cfg: CfgNode) -> bool:
    """Returns whether the model of a config consists of flow blocks or the same blocks in a row."""
    return cfg.MODEL.META_ARCHITECTURE not in _METHODS_WITHOUT_BLOCKS


def method_of(cfg: CfgNode) -> str:
    """Returns the name of the training method in result files.

    - `flow`: flow blocks that are trained on rollout states.
    - `flow_paper`: the paper's recipe (interpolated states, velocity prediction, no
      self-conditioning).
    - `flow_interpolated`: interpolated states, but another prediction or self-conditioning.
    - `backprop`: end-to-end training.
    - `backprop_paper`: end-to-end training of a detector without `ANCHORED_QUERIES`.
    - `backprop_checkpointed`: end-to-end training of a detector with gradient checkpointing.
    - `box_diffusion`, `box_flow`: noise on boxes, end-to-end training.
    - `faster_rcnn`, `fcos`: detectron2's heads on the backbone and neck of the other detectors.
    - `ff`, `sff`, `cff`, `cff_margin`, `symba`, `collab`, `noprop_dt`, `noprop_ct`, `noprop_fm`,
      `softhebb`: the classifiers of `flowdet.flowcls.baselines`.
    """
    if not has_blocks(cfg):
        method = _METHODS_WITHOUT_BLOCKS[cfg.MODEL.META_ARCHITECTURE]
        if method == "noprop":
            return f"noprop_{cfg.MODEL.NOPROP.VARIANT}"
        return "cff_margin" if method == "cff" and cfg.MODEL.CFF.MARGIN > 0 else method
    if cfg.MODEL.META_ARCHITECTURE == "BoxTransportDetector":
        return f"box_{cfg.MODEL.BOX_TRANSPORT.PATH}"
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
