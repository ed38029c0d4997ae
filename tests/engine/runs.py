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
    """Trains with a copy of a config and returns the trainer; `interrupt_before` an iteration ends
    it as a crash would."""
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


def final_checkpoint(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_resumes_exactly(cfg, folder):
    """An interrupted and resumed training gives the weights, the moving average and the metrics of
    an uninterrupted one, bit for bit; another seed does not.

    Args:
        cfg: of 6 iterations with a checkpoint after 3, and with a moving average.
        folder: for the runs.

    Returns:
        The trainer of the resumed run, and its last checkpoint.
    """
    whole = train(cfg, folder / "whole")
    # before the fifth iteration: the fourth is lost, and repeated
    train(cfg, folder / "parts", interrupt_before=4)
    resumed = train(cfg, folder / "parts", resume=True)
    assert resumed.start_iter == 3
    expected, actual = (final_checkpoint(folder / name) for name in ("whole", "parts"))
    for key in ("model", "ema"):
        assert expected[key].keys() == actual[key].keys()
        for name, tensor in expected[key].items():
            assert torch.equal(tensor, actual[key][name]), (key, name)
    assert whole._last_eval_results == resumed._last_eval_results
    # the comparison can fail
    other_cfg = cfg.clone()
    other_cfg.SEED = cfg.SEED + 1
    other_cfg.TEST.EVAL_PERIOD = 0
    train(other_cfg, folder / "other")
    other = final_checkpoint(folder / "other")["model"]
    assert any(not torch.equal(x, other[name]) for name, x in expected["model"].items())
    return resumed, actual
