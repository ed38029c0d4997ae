"""Folders of runs with random weights."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

from flowdet.engine import FlowDetCheckpointer, load_config, resolve_config

CONFIGS = Path(__file__).parents[2] / "configs"
# overrides that make a classifier with a ViT small
CLASSIFIER = [
    *("MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
    *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
    *("MODEL.FLOW_CLS.NUM_BLOCKS", "2"),
]


def run_folder(folder, config, overrides=()):
    """Writes the config and checkpoint of a training into a folder, with random weights."""
    torch.manual_seed(0)
    cfg = load_config(str(CONFIGS / config), ["MODEL.DEVICE", "cpu", *overrides])
    model = build_model(resolve_config(cfg, training=False))
    FlowDetCheckpointer(model, str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
