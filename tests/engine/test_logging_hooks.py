"""What a training logs."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowdet.engine import Trainer, logging_hooks, resolve_config
from flowdet.engine.logging_hooks import ForgetOldScalars, LogCost, MetricPrinter, peak_memory
from flowdet.reporting.runs import read_metrics
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import train

NAMES = ("cat", "dog", "owl")
IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], i % 2)] for i in range(5)}


@pytest.fixture
def cfg(voc_dataset, tmp_path):
    cfg = tiny_cfg(NUM_CLASSES=0, NUM_BLOCKS=2, SCORE_THRESHOLD=0.0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [48, 64]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 2, 6, 0
    cfg.SOLVER.EMA_DECAY = 0.5
    cfg.TEST.EVAL_PERIOD, cfg.TEST.SAMPLE_IMAGES = 3, 2
    cfg.SEED = 3
    return cfg


def test_tensorboard_has_losses_rates_cost_metrics_and_previews(cfg, tmp_path):
    # interrupted: the second event file is that of the resumed training
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    train(cfg, tmp_path / "run", interrupt_before=1)
    trainer = train(cfg, tmp_path / "run", resume=True)
    assert trainer.start_iter == 1
    events = EventAccumulator(str(tmp_path / "run"), {"images": 0, "scalars": 0}).Reload()
    scalars = set(events.Tags()["scalars"])
    blocks = {f"block{k}/{x}" for k in (0, 1) for x in ("cls", "bbox", "giou", "flow")}
    statistics = {f"block{k}/{x}" for k in (0, 1) for x in ("matched_iou", "class_accuracy")}
    cost = {"images_per_second", "images_per_second_mean", "memory/process_peak_mib"}
    accuracy = {"bbox/AP50", "bbox_ema/AP50"}
    rates = {"lr/backbone", "lr/rest"}
    assert scalars >= {"total_loss"} | blocks | statistics | cost | accuracy | rates

    def last(name):
        return events.Scalars(name)[-1].value

    assert last("lr/backbone") == pytest.approx(
        cfg.SOLVER.BACKBONE_MULTIPLIER * last("lr/rest"), rel=1e-4
    )
    assert last("lr") in (last("lr/backbone"), last("lr/rest"))
    assert last("images_per_second_mean") > 0
    (tag,) = events.Tags()["images"]
    assert tag == f"samples/{cfg.DATASETS.TEST[0]}"
    # one picture per evaluation: ground truth and detections of two images
    assert [image.step for image in events.Images(tag)] == [2, 6]
    assert events.Images(tag)[0].width > 4 * 320
    assert read_metrics(tmp_path / "run")[-1]["images_per_second_mean"] > 0


def test_previews_can_be_switched_off(cfg):
    cfg.TEST.SAMPLE_IMAGES = 0
    hooks = Trainer(resolve_config(cfg))._hooks
    assert "LogPreviews" not in {type(hook).__name__ for hook in hooks}
    cfg.TEST.SAMPLE_IMAGES = -1
    with pytest.raises(ValueError, match="TEST.SAMPLE_IMAGES must be from 0 to 50, got -1"):
        Trainer(cfg)


def test_images_per_second_by_hand():
    hook = LogCost(8, "cpu")
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(storage=storage, iter=0)
        # the timer skips the first iterations
        hook.after_step()
        assert "images_per_second" not in storage.latest()
        for time in (2.0, 4.0):
            storage.put_scalar("time", time)
            hook.after_step()
        assert storage.latest()["images_per_second"][0] == 2.0
        hook.after_train()
        assert storage.latest()["images_per_second_mean"][0] == pytest.approx(8 / 3)


def test_peak_memory_of_this_process_is_in_mib():
    # python with torch needs some hundred MiB
    assert 50 < peak_memory("cpu")["memory/process_peak_mib"] < 2**20


@pytest.mark.parametrize(("system", "expected"), [("linux", 3072.0), ("darwin", 3.0)])
def test_peak_memory_has_the_unit_of_the_system(monkeypatch, system, expected):
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    monkeypatch.setattr(logging_hooks.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(logging_hooks.sys, "platform", system)
    assert peak_memory("cpu") == {"memory/process_peak_mib": expected}


def test_peak_memory_of_a_gpu_or_of_a_system_that_does_not_report_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * 2**20)
    assert peak_memory("cuda:1") == {"memory/gpu_peak_mib": 5.0}
    monkeypatch.setattr(logging_hooks, "resource", None)
    assert peak_memory("cpu") == {}


def test_old_scalars_are_forgotten_and_their_mean_is_kept():
    hook = ForgetOldScalars(keep=10)
    with EventStorage() as storage:
        for iteration in range(95):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            storage.put_scalar("loss", iteration)
            hook.after_step()
            storage.step()
        history = storage.history("loss")
        assert [value for value, _ in history.values()] == list(range(80, 95))
        assert history.global_avg() == pytest.approx(47.0)
        assert history.median(storage.count_samples("loss", 5)) == 92


def test_printing_an_iteration_twice():
    # as after an error in one of the first iterations, which have no time yet
    printer = MetricPrinter(2)
    with EventStorage(1):
        printer.write()
        printer.write()
