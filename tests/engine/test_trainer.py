import json
import math

import pytest
import torch

from flowdet.engine import Trainer, resolve_config
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import train

NAMES = ("cat", "dog", "owl")
IMAGES = {
    f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], 0), ((2, 20, 22, 44), NAMES[i % 2], 0)]
    for i in range(5)
} | {"empty": []}


@pytest.fixture
def cfg(voc_dataset, tmp_path):
    cfg = tiny_cfg(NUM_CLASSES=0, DROPOUT=0.1, NUM_BLOCKS=2)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [48, 64]
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.TEST.EVAL_PERIOD = 2
    cfg.TEST.BATCH_SIZE = 4
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return resolve_config(cfg)


def last_metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def averaged(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["ema"]


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_an_interrupted_training_goes_on_as_if_it_was_not(cfg, tmp_path, schedule):
    cfg.MODEL.FLOW_DET.SCHEDULE = schedule
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 2
    cfg.SOLVER.EMA_DECAY = 0.5
    whole = train(cfg, tmp_path / "whole")
    # the fourth iteration is lost, and done again
    train(cfg, tmp_path / "parts", interrupt_before=4)
    resumed = train(cfg, tmp_path / "parts", resume=True)
    assert resumed.start_iter == 3
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    one, two = (averaged(tmp_path / name) for name in ("whole", "parts"))
    assert one.keys() == two.keys() and one["n_averaged"] == 6
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    assert not torch.equal(one["module.heads.classes.weight"], expected["heads.classes.weight"])
    # both are evaluated
    assert list(resumed._last_eval_results) == ["bbox", "bbox_ema"]
    assert resumed._last_eval_results == whole._last_eval_results
    # and the seed matters, so that the comparison can fail
    cfg.SEED = 4
    other = train(cfg, tmp_path / "other").model.state_dict()
    assert not torch.equal(other["heads.classes.weight"], expected["heads.classes.weight"])


def test_evaluation_after_training_is_written(cfg, tmp_path):
    trainer = train(cfg, tmp_path / "run")
    last = last_metrics(tmp_path / "run")
    assert 0 <= last["bbox/AP50"] <= 100
    assert last["bbox/AP50"] == trainer._last_eval_results["bbox"]["AP50"]
    assert math.isfinite(last["total_loss"])
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_the_weights_of_the_config_are_loaded(cfg, tmp_path):
    trainer = train(cfg, tmp_path / "first")
    cfg.MODEL.WEIGHTS = str(tmp_path / "first" / "model_final.pth")
    again = Trainer(cfg)
    again.resume_or_load(resume=False)
    assert again.start_iter == 0
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name
    cfg.MODEL.WEIGHTS = str(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Trainer(cfg).resume_or_load(resume=False)
