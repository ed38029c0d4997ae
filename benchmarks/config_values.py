#!/usr/bin/env python
"""Sets config keys to many values, one at a time; trains a small model on those that are accepted.

    benchmarks/config_values.py                        # all models: some hours on two cores
    benchmarks/config_values.py --model flow sff --keys MODEL.FLOW_DET. MODEL.SFF.

A value is either refused with one line that names the key, or the model is built, trains for one
iteration with finite losses and weights, and predicts. Everything else is printed, and the command
ends with exit status 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import flowdet

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from flowdet.cli.common import command_parser
from flowdet.config.errors import ConfigError
from flowdet.config.schema import KEYS, defaults
from flowdet.engine import Trainer, load_config
from flowdet.engine.config_values import check_training_values

# the small models and images are those of the tests
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.detection import tiny as detection
from tests.flowcls import tiny as classification

_PHOTOS = ["MODEL.FLOW_DET.FEATURE_CACHE_GIB", 0, "INPUT.FIXED_SIZE", [64, 64]]
_FASTER_RCNN = "peers/voc_faster_rcnn_r18_frozen.yaml"
# config and overrides of the detectors, and config of the classifiers, by a short name
DETECTORS = {
    "flow": ("digits_flow.yaml", []),
    "backprop": ("digits_backprop.yaml", []),
    "box_diffusion": ("peers/voc_box_diffusion_r18_frozen.yaml", _PHOTOS),
    "fcos": ("peers/voc_fcos_r18_frozen.yaml", _PHOTOS),
    "faster_rcnn": (_FASTER_RCNN, _PHOTOS),
    "cascade": (
        _FASTER_RCNN,
        [
            *_PHOTOS,
            *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
            *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ],
    ),
}
_BASELINES = ("ff", "symba", "collab", "sff", "cff", "softhebb")
CLASSIFIERS = {
    "flow_vit": "digits_flow_vit",
    "flow_cnn": "digits_flow_cnn",
    "backprop_cnn": "digits_flow_cnn+backprop",
    **{name: f"baselines/digits_{name}_cnn" for name in _BASELINES},
    **{f"noprop_{name}": f"baselines/digits_noprop_{name}_cnn" for name in ("dt", "ct", "fm")},
}
# values by the type of the default; those of another type are tried by
# tests/engine/test_every_config_key.py
_LISTS = ["[]", "[1, 'a']", "[-1]", "[0]", "[1]", "[[1]]", "[1, 2, 3]", "[3, 3, 3]"]
VALUES = {
    float: ["nan", "-1", "0", "1e-30", "1", "1e300"],
    int: ["1.5", "-1", "0", "1", "3", "7"],
    bool: ["True", "False"],
    str: ["", "abc"],
    list: _LISTS,
    tuple: _LISTS,
    type(None): ["-1", "0"],
}
# the first two would need a GPU and download files; the others name files or code
LEFT_OUT = ("MODEL.DEVICE", "MODEL.WEIGHTS", "OUTPUT_DIR", "IMPORTS", "DATASETS.")


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    flowdet.register()
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for model in args.model:
        for key, value in _tried(tuple(args.keys)):
            kind, message = outcome(model, [key, value])
            counts[kind] += 1
            if kind == "wrong":
                print(f"{model}: {key} {value!r}: {message}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return 1 if counts["wrong"] else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    models = [*DETECTORS, *CLASSIFIERS]
    parser.add_argument("--model", nargs="+", default=models, choices=models, metavar="MODEL")
    parser.add_argument("--keys", nargs="+", default=[""], help="beginnings of the keys")
    return parser.parse_args(argv)


def _tried(starts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yields the keys that begin with one of `starts`, and every value to try."""
    for key, declared in KEYS.items():
        if key in defaults() and key.startswith(starts) and not key.startswith(LEFT_OUT):
            names = declared.rule.names() if declared.rule.names else ()
            for value in [*VALUES[type(defaults()[key])], *names]:
                yield key, value


def outcome(model: str, override: list[str]) -> tuple[str, str]:
    """Returns what happens to a value, "refused", "trained" or "wrong", and the message."""
    key = override[0]
    try:
        cfg = _config(model, override)
        check_training_values(cfg)
        problem = train_one_iteration(cfg, model)
    except ConfigError as error:
        text = str(error)
        is_clear = "\n" not in text and key.rpartition(".")[2] in text
        return ("refused", text) if is_clear else ("wrong", text)
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"
    return ("wrong", problem) if problem else ("trained", "")


def _config(model: str, overrides: list) -> CfgNode:
    if model in CLASSIFIERS:
        return classification.tiny_cfg(CLASSIFIERS[model], *overrides)
    file, words = DETECTORS[model]
    sizes = [word for pair in detection.SIZES.items() for word in pair]
    return load_config(str(detection.CONFIGS / file), [*sizes, *words, *overrides])


def train_one_iteration(cfg: CfgNode, model: str) -> str:
    """Trains a new model for one iteration and predicts; returns what is not finite, or ""."""
    torch.manual_seed(0)
    network = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, network)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    batch = detection.batch() if model in DETECTORS else classification.images()
    if model == "cff":
        batch = [{**x, "image2": x["image"]} for x in batch]
    with EventStorage():
        losses = sum(network(batch).values())
        if not torch.isfinite(losses):
            return "a loss is not finite"
        if losses.requires_grad:
            losses.backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        network.eval()([{"image": x["image"], "height": 64, "width": 64} for x in batch])
    broken = [name for name, x in network.named_parameters() if not torch.isfinite(x).all()]
    return f"{broken[0]} is not finite" if broken else ""


if __name__ == "__main__":
    sys.exit(main())
