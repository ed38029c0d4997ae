"""Trainings that are interrupted, for the tests of engine."""

import contextlib

import torch
from detectron2.engine import HookBase

from flowdet.engine import Trainer, resolve_config


class Interruption(Exception):
    pass


class InterruptBefore(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise Interruption


def train(cfg, folder, interrupt_before=None, resume=False):
    """Trains by a copy of a config in a folder, and ends there if it is interrupted."""
    cfg = resolve_config(cfg.clone())
    cfg.OUTPUT_DIR = str(folder)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.register_hooks([InterruptBefore(interrupt_before)])
    trainer.resume_or_load(resume=resume)
    with contextlib.suppress(Interruption):
        trainer.train()
    return trainer
