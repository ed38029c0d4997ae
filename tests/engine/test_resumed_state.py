"""A training is resumed with another optimizer, learning rate or precision (`--override`)."""

import pytest
import torch

from flowdet.engine import Trainer, resolve_config
from flowdet.engine.resumed_state import fitted_state
from tests.detection.tiny import tiny_cfg

IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), "cat", False)] for i in range(3)}


@pytest.fixture
def cfg(voc_dataset, tmp_path):
    cfg = tiny_cfg(NUM_CLASSES=0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(tmp_path), 0
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 0, 10, 0
    return resolve_config(cfg)


def saved_after_four_iterations(cfg):
    """A trainer whose checkpoint is that of a training with four iterations."""
    trainer = Trainer(cfg)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(4):
        trainer._trainer.optimizer.step()
        trainer.scheduler.step()
    trainer.iter = trainer._trainer.iter = 3
    trainer.checkpointer.save("model_0000003", iteration=3)
    return trainer


def resumed(cfg):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    return trainer._trainer.optimizer


def groups_of(optimizer):
    return [{k: x for k, x in group.items() if k != "params"} for group in optimizer.param_groups]


def test_the_state_is_the_same_with_the_same_config(cfg):
    before = saved_after_four_iterations(cfg)._trainer.optimizer
    after = resumed(cfg)
    assert groups_of(after) == groups_of(before)
    assert [x["step"] for x in after.state.values()] == [x["step"] for x in before.state.values()]


def test_a_new_learning_rate_and_weight_decay_are_used(cfg):
    before = groups_of(saved_after_four_iterations(cfg)._trainer.optimizer)
    cfg.SOLVER.BASE_LR *= 10
    cfg.SOLVER.WEIGHT_DECAY = 0.25
    for old, new in zip(before, groups_of(resumed(cfg)), strict=True):
        assert new["lr"] == pytest.approx(10 * old["lr"]) and new["lr"] > 0
        assert new["weight_decay"] == (0.25 if old["weight_decay"] else 0)


def test_a_longer_training_has_the_rate_of_its_schedule_at_once(cfg):
    before = groups_of(saved_after_four_iterations(cfg)._trainer.optimizer)
    cfg.SOLVER.MAX_ITER = 100
    for old, new in zip(before, groups_of(resumed(cfg)), strict=True):
        assert old["lr"] < new["lr"] < new["initial_lr"]


@pytest.mark.parametrize("one, other", [("AdamW", "SGD"), ("SGD", "AdamW")])
def test_another_optimizer_starts_anew(cfg, one, other, caplog):
    cfg.SOLVER.OPTIMIZER = one
    saved_after_four_iterations(cfg)
    cfg.SOLVER.OPTIMIZER = other
    optimizer = resumed(cfg)
    assert not optimizer.state and isinstance(optimizer, getattr(torch.optim, other))
    assert "the state of the optimizer starts anew" in caplog.text
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_mixed_precision_that_is_turned_on(caplog):
    loop = {"iteration": 3, "optimizer": {"param_groups": [{"betas": (0.9, 0.999)}]}}
    own = {"_trainer": loop | {"grad_scaler": {"scale": 2.0}}}
    assert fitted_state({"_trainer": loop}, own)["_trainer"] == own["_trainer"]
    scaler = loop | {"grad_scaler": {"scale": 8.0}}
    assert fitted_state({"_trainer": scaler}, own)["_trainer"] == scaler
    assert fitted_state({"iteration": 3}, own)["_trainer"] == {"grad_scaler": {"scale": 2.0}}
    assert not caplog.records
