"""Trainings that are interrupted, for the tests of engine."""

import contextlib

import pytest
import torch
from detectron2.engine import HookBase

from flowdet.engine import Trainer, resolve_config
from flowdet.engine.metrics_file import read_records


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


# what depends on the time or the process
_TIMES = ("time", "data_time", "rank_data_time", "eta_seconds", "evaluation_seconds")
_TIMES += ("images_per_second", "images_per_second_mean", "memory/")


def metrics_by_iteration(folder):
    """The metrics of a run by iteration, without times; a value that is there twice is an error."""
    merged = {}
    for record in read_records(folder):
        values = merged.setdefault(record.pop("iteration"), {})
        assert not values.keys() & record.keys()
        values |= {name: x for name, x in record.items() if not name.startswith(_TIMES)}
    return {iteration: values for iteration, values in merged.items() if values}


def assert_same_metrics(folder, expected_folder):
    """Two runs have the same metrics at the same iterations; evaluations are equal.

    Losses are medians over the iterations since the start of the process.
    """
    actual, expected = map(metrics_by_iteration, (folder, expected_folder))
    assert actual.keys() == expected.keys()
    for iteration, values in expected.items():
        assert actual[iteration].keys() == values.keys(), iteration
        for name in values:
            if name.startswith(("bbox", "classification", "lr")):
                assert actual[iteration][name] == pytest.approx(values[name], nan_ok=True, abs=0)
