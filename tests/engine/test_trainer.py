"""Training, resuming and evaluating detectors."""

import json
import math

import pytest
import torch

from flowdet.engine import Trainer, evaluate, resolve_config
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import (
    Interruption,
    assert_resumes_exactly,
    assert_same_metrics,
    final_checkpoint,
    metrics_by_iteration,
    train,
)

NAMES = ("cat", "dog", "owl")
IMAGES = {
    f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], 0), ((2, 20, 22, 44), NAMES[i % 2], 0)]
    for i in range(5)
} | {"empty": []}


@pytest.fixture
def cfg(voc_dataset):
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
    cfg.TEST.EVAL_PERIOD = 4
    cfg.TEST.BATCH_SIZE = 4
    # drawing takes longer than training; test_logging_hooks.py draws
    cfg.TEST.SAMPLE_IMAGES = 0
    cfg.SEED = 3
    return resolve_config(cfg)


def last_metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_resumed_training_equals_an_uninterrupted_one(cfg, tmp_path, schedule):
    cfg.MODEL.FLOW_DET.SCHEDULE = schedule
    cfg.MODEL.FLOW_DET.ITERS_PER_EPOCH = 2
    cfg.SOLVER.EMA_DECAY = 0.5
    resumed, checkpoint = assert_resumes_exactly(cfg, tmp_path)
    assert checkpoint["ema"]["n_averaged"] == 6
    name = "heads.classes.weight"
    assert not torch.equal(checkpoint["ema"][f"module.{name}"], checkpoint["model"][name])
    # raw and averaged weights are evaluated
    assert list(resumed._last_eval_results) == ["bbox", "bbox_ema"]


@pytest.mark.parametrize("architecture", ["FlowMatchingDetector", "BackpropDetector"])
def test_resumed_training_of_a_proposal_network_equals_an_uninterrupted_one(
    cfg, tmp_path, architecture
):
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.FLOW_DET.PROPOSAL_QUERIES = 4
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[12, 24, 48]]
    cfg.SOLVER.EMA_DECAY = 0.5
    resumed, checkpoint = assert_resumes_exactly(cfg, tmp_path)
    # the network is trained and averaged
    name = "proposal_network.rpn.rpn_head.anchor_deltas.weight"
    assert not torch.equal(checkpoint["ema"][f"module.{name}"], checkpoint["model"][name])
    assert list(resumed._last_eval_results) == ["bbox", "bbox_ema"]
    cfg.MODEL.FLOW_DET.PROPOSAL_QUERIES = 0
    with pytest.raises(ValueError, match="does not fit the parameters of the model"):
        train(cfg, tmp_path / "parts", resume=True)


@pytest.mark.parametrize("path", ["diffusion", "flow"])
def test_resumed_training_of_noisy_boxes_equals_an_uninterrupted_one(cfg, tmp_path, path):
    cfg.MODEL.META_ARCHITECTURE = "BoxTransportDetector"
    cfg.MODEL.BOX_TRANSPORT.PATH = path
    cfg.SOLVER.EMA_DECAY = 0.5
    resumed, _ = assert_resumes_exactly(cfg, tmp_path)
    assert list(resumed._last_eval_results) == ["bbox", "bbox_ema"]


def test_training_writes_metrics_and_a_checkpoint_that_another_can_start_from(cfg, tmp_path):
    trainer = train(cfg, tmp_path / "run")
    last = last_metrics(tmp_path / "run")
    assert 0 <= last["bbox/AP50"] <= 100
    assert last["bbox/AP50"] == trainer._last_eval_results["bbox"]["AP50"]
    assert math.isfinite(last["total_loss"])

    cfg.MODEL.WEIGHTS = str(tmp_path / "run" / "model_final.pth")
    cfg.OUTPUT_DIR = str(tmp_path / "next")
    following = Trainer(cfg)
    following.resume_or_load(resume=False)
    assert following.start_iter == 0
    expected = trainer.model.state_dict()
    for name, tensor in following.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_missing_weights_are_an_error(cfg, tmp_path):
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.MODEL.WEIGHTS = str(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Trainer(cfg).resume_or_load(resume=False)


def test_a_finished_run_with_a_broken_final_model_writes_it_anew(cfg, tmp_path):
    cfg.TEST.EVAL_PERIOD = 0
    train(cfg, tmp_path)
    final, expected = tmp_path / "model_final.pth", final_checkpoint(tmp_path)["model"]
    # with another checkpoint of the last iteration, and with an earlier one that training goes on
    # from
    for deleted, start in ((), 6), (("model_0000005.pth",), 3):
        final.write_bytes(final.read_bytes()[:1000])
        for name in deleted:
            (tmp_path / name).unlink()
        trainer = train(cfg, tmp_path, resume=True)
        assert trainer.start_iter == start
        assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
        checkpoint = final_checkpoint(tmp_path)
        assert checkpoint["iteration"] == 5
        for name, tensor in expected.items():
            assert torch.equal(tensor, checkpoint["model"][name]), name


def test_a_stop_in_an_evaluation_loses_neither_it_nor_metrics(cfg, tmp_path, monkeypatch):
    cfg.TEST.EVAL_PERIOD = 3
    train(cfg, tmp_path / "whole")
    expected = metrics_by_iteration(tmp_path / "whole")
    assert "bbox/AP50" in expected[2] and "total_loss" in expected[2]
    assert "bbox/AP50" in expected[6] and "total_loss" in expected[5]
    # in the evaluation after a checkpoint, in the one after the training, and not at all
    for allowed in (0, 1, 9):
        calls = iter(range(allowed))

        def evaluate_or_stop(*args, calls=calls):
            if next(calls, None) is None:
                raise Interruption
            return evaluate(*args)

        monkeypatch.setattr("flowdet.engine.trainer.evaluate", evaluate_or_stop)
        train(cfg, tmp_path / "parts", resume=True)
        assert ("bbox/AP50" in metrics_by_iteration(tmp_path / "parts").get(2, {})) == (allowed > 0)
    assert_same_metrics(tmp_path / "parts", tmp_path / "whole")
    # a finished run evaluates again, and a longer one keeps the evaluation
    train(cfg, tmp_path / "parts", resume=True)
    assert_same_metrics(tmp_path / "parts", tmp_path / "whole")
    cfg.SOLVER.MAX_ITER = 7
    train(cfg, tmp_path / "parts", resume=True)
    longer = metrics_by_iteration(tmp_path / "parts")
    assert longer[6]["bbox/AP50"] == expected[6]["bbox/AP50"] and "total_loss" in longer[6]
    assert "bbox/AP50" in longer[7]


def test_an_error_in_the_last_iteration_ends_without_an_evaluation(cfg, tmp_path):
    train(cfg, tmp_path, interrupt_before=5)
    assert all("bbox/AP50" not in x or i == 3 for i, x in metrics_by_iteration(tmp_path).items())
    assert not (tmp_path / "model_final.pth").exists()
