"""Computes the features of frozen backbones before the runs of a comparison are timed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode

from flowdet.engine import FlowDetCheckpointer, Trainer
from flowdet.engine.config import with_keys


def fill_feature_caches(cfgs: Iterable[CfgNode]) -> None:
    """Writes the features of all training images, and of their mirror images, to the cache folders.

    Otherwise the first run of a comparison would compute them during its training, and would seem
    to be slower than the other runs. Configs without a cache folder are skipped. Features that a
    folder already has are not computed again.

    Args:
        cfgs: the resolved configs of the runs.
    """
    seen = set()
    for cfg in cfgs:
        key = (
            *(repr(cfg.MODEL[name]) for name in ("BACKBONE", "RESNETS", "PIXEL_MEAN", "PIXEL_STD")),
            *(cfg.MODEL.WEIGHTS, repr(cfg.INPUT), cfg.DATASETS.TRAIN),
        )
        uses_folder = cfg.MODEL.FLOW_DET.FEATURE_CACHE_GIB and cfg.MODEL.FLOW_DET.FEATURE_CACHE_DIR
        if uses_folder and key not in seen:
            seen.add(key)
            _fill(cfg)


@torch.no_grad()
def _fill(cfg: CfgNode) -> None:
    # images of several sizes would be padded in another way than in the training
    cfg = with_keys(cfg, {"TEST.BATCH_SIZE": 1} if not all(cfg.INPUT.FIXED_SIZE) else {})
    model = Trainer.build_model(cfg).eval()
    with _without_warnings():
        FlowDetCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    for name in cfg.DATASETS.TRAIN:
        for batch in Trainer.build_test_loader(cfg, name):
            model.encode(batch)
            if cfg.INPUT.RANDOM_FLIP == "horizontal":
                model.encode([x | {"image": x["image"].flip(-1)} for x in batch])


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hides log messages: weights of a backbone lack the rest of the model, as each run logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
