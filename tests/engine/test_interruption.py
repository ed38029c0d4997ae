"""Ctrl-C in a training: when it ends, what is saved, and that the run can be resumed exactly."""

import signal

import pytest
import torch
from detectron2.engine import HookBase

from flowdet.engine import Trainer, checkpoint, checkpoint_files, resolve_config
from flowdet.stop_signals import stop_name, stop_signals
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import final_checkpoint, train

NAMES = ("cat", "dog", "owl")
NUMBERS = (signal.SIGINT, signal.SIGTERM)
IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], False)] for i in range(5)}


class PressCtrlC(HookBase):
    """Sends the signals of Ctrl-C, or others, in an iteration."""

    def __init__(self, iteration, numbers=(signal.SIGINT,)):
        self.iteration = iteration
        self.numbers = numbers

    def before_step(self):
        if self.trainer.iter == self.iteration:
            for number in self.numbers:
                signal.raise_signal(number)


@pytest.fixture
def cfg(voc_dataset):
    cfg = tiny_cfg(NUM_CLASSES=0, NUM_BLOCKS=2)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [48, 64]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.MAX_EPOCHS = cfg.SOLVER.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 2, 4, 2
    cfg.SOLVER.EMA_DECAY, cfg.SOLVER.CHECKPOINT_PERIOD = 0.5, 100
    cfg.TEST.EVAL_PERIOD, cfg.TEST.SAMPLE_IMAGES = 0, 0
    cfg.SEED = 3
    return cfg


def interrupted(cfg, folder, hook):
    cfg = resolve_config(cfg.clone())
    cfg.OUTPUT_DIR = str(folder)
    folder.mkdir()
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.register_hooks([hook])
    trainer.resume_or_load(resume=False)
    with stop_signals():
        before = [signal.getsignal(number) for number in NUMBERS]
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert [signal.getsignal(number) for number in NUMBERS] == before
    return trainer


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


def test_the_iteration_is_finished_and_the_run_goes_on_as_if_uninterrupted(cfg, tmp_path, capsys):
    whole = train(cfg, tmp_path / "whole")
    interrupted(cfg, tmp_path / "parts", PressCtrlC(1))
    assert "Ctrl-C: stopping after this iteration" in capsys.readouterr().err
    assert checkpoints(tmp_path / "parts") == ["model_0000001.pth"]
    resumed = train(cfg, tmp_path / "parts", resume=True)
    assert resumed.start_iter == 2
    expected, actual = (final_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    for key in ("model", "ema"):
        for name, tensor in expected[key].items():
            assert torch.equal(tensor, actual[key][name]), (key, name)
    assert whole._last_eval_results == resumed._last_eval_results


def test_the_second_ctrl_c_ends_at_once_and_saves_no_half_iteration(cfg, tmp_path):
    trainer = interrupted(cfg, tmp_path / "run", PressCtrlC(1, [signal.SIGINT] * 2))
    assert trainer.iter == 1
    assert checkpoints(tmp_path / "run") == []


def test_sigterm_in_a_command_does_what_ctrl_c_does(cfg, tmp_path, capsys, caplog):
    with caplog.at_level("INFO", "flowdet"):
        # also if a command that trains several runs sends it after Ctrl-C
        interrupted(cfg, tmp_path / "run", PressCtrlC(1, NUMBERS))
    assert stop_name() == "SIGTERM" and "SIGTERM: stopping after" in capsys.readouterr().err
    assert "The training is stopped by SIGTERM after iteration 1" in caplog.text
    assert checkpoints(tmp_path / "run") == ["model_0000001.pth"]
    trainer = interrupted(cfg, tmp_path / "twice", PressCtrlC(1, [signal.SIGTERM] * 2))
    assert trainer.iter == 1 and checkpoints(tmp_path / "twice") == []


def test_after_the_last_iteration_the_evaluation_is_left_out(cfg, tmp_path):
    trainer = interrupted(cfg, tmp_path / "run", PressCtrlC(3))
    assert checkpoints(tmp_path / "run") == ["model_final.pth"]
    assert not hasattr(trainer, "_last_eval_results")
    resumed = train(cfg, tmp_path / "run", resume=True)
    assert resumed.start_iter == 4 and "bbox" in resumed._last_eval_results


def test_in_an_evaluation_it_ends_at_once_with_a_checkpoint(cfg, tmp_path, monkeypatch):
    def evaluate(*args):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the evaluation went on")

    monkeypatch.setattr("flowdet.engine.trainer.evaluate", evaluate)
    cfg.TEST.EVAL_PERIOD = 2
    interrupted(cfg, tmp_path / "run", PressCtrlC(-1))
    assert checkpoints(tmp_path / "run") == ["model_0000001.pth"]


def test_an_iteration_that_was_saved_is_not_saved_again(cfg, tmp_path):
    cfg.SOLVER.CHECKPOINT_PERIOD = 1

    class PressAfter(HookBase):
        def after_step(self):
            saved.append(path.stat().st_mtime_ns)
            signal.raise_signal(signal.SIGINT)

    saved, path = [], tmp_path / "run" / "model_0000000.pth"
    interrupted(cfg, tmp_path / "run", PressAfter())
    assert path.stat().st_mtime_ns == saved[0]


@pytest.mark.parametrize("period", [2, 4])
def test_a_checkpoint_whose_writing_was_interrupted_is_saved(cfg, tmp_path, monkeypatch, period):
    cfg.SOLVER.CHECKPOINT_PERIOD = period
    write, calls = checkpoint.write_checkpoint, []

    def interrupted_once(path, content):
        calls.append(path.name)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_checkpoint", interrupted_once)
    interrupted(cfg, tmp_path / "run", PressCtrlC(-1))
    # the second is that of the last iteration
    name = f"model_{period - 1:07d}.pth"
    assert calls == [name, name] and checkpoints(tmp_path / "run") == [name]
    assert train(cfg, tmp_path / "run", resume=True).start_iter == period


def test_a_checkpoint_whose_name_was_not_written_is_saved(cfg, tmp_path, monkeypatch):
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    name_last, calls = checkpoint_files.name_last_checkpoint, []

    def interrupted_once(path):
        calls.append(path.name)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        name_last(path)

    monkeypatch.setattr(checkpoint_files, "name_last_checkpoint", interrupted_once)
    interrupted(cfg, tmp_path / "run", PressCtrlC(-1))
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000001.pth"


def test_an_error_saves_nothing(cfg, tmp_path):
    train(cfg, tmp_path / "run", interrupt_before=2)
    assert checkpoints(tmp_path / "run") == []
