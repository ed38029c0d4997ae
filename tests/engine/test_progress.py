"""The live line of a training and the bars of long loops, on a terminal and without one."""

import fcntl
import io
import logging
import os
import re
import struct
import termios
from contextlib import contextmanager, redirect_stdout

import pytest
from detectron2.utils.events import EventStorage
from torch.utils.data import DataLoader

from flowdet.engine import Trainer
from flowdet.engine.progress import Length, LiveLine, status
from flowdet.terminal import LoaderWithBar, terminal_bar
from tests.detection.tiny import tiny_cfg
from tests.engine.runs import train

NAMES = ("cat", "dog", "owl")
IMAGES = {f"image{i}": [((4 + i, 4, 30 + i, 40), NAMES[i % 3], False)] for i in range(5)}


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 1

    def lines(self):
        """The lines that are left on a terminal."""
        texts = (line.split("\r") for line in self.getvalue().split("\n"))
        return [next((x for x in reversed(parts) if x.strip()), "") for parts in texts]


@contextmanager
def on_terminal(columns=110):
    """Standard output is a terminal of this width."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(Terminal()) as terminal:
        patch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 40)))
        yield terminal


@contextmanager
def detectron2_log(stream):
    """detectron2's lines go to a stream and to the file that is returned, as in a training."""
    logger, file = logging.getLogger("detectron2"), io.StringIO()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers[:] = [logging.StreamHandler(stream), logging.StreamHandler(file)]
    logger.setLevel(logging.DEBUG)
    try:
        yield file
    finally:
        assert [x.stream for x in logger.handlers] == [stream, file]
        assert not any(x.filters for x in logger.handlers)
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def cfg(voc_dataset):
    cfg = tiny_cfg(NUM_CLASSES=0, NUM_BLOCKS=2, SCORE_THRESHOLD=0.0)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (voc_dataset(IMAGES),)
    cfg.INPUT.FIXED_SIZE = [48, 64]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.CHECKPOINT_EPOCHS, cfg.TEST.EVAL_EPOCHS = 2, 1, 1
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WARMUP_EPOCHS, cfg.TEST.SAMPLE_IMAGES = 1, 0, 0
    return cfg


def test_a_training_shows_one_line_per_epoch_and_the_log_is_unchanged(cfg, tmp_path):
    with on_terminal() as terminal, detectron2_log(terminal) as log_file:
        train(cfg, tmp_path / "run")
    epochs = [line for line in terminal.lines() if line.startswith("epoch ")]
    assert [line.split("|")[0].split() for line in epochs] == [
        ["epoch", "1/2", "50%"],
        ["epoch", "2/2", "100%"],
    ]
    number = r"\d[\d.e+]*"
    for line, ap in zip(epochs, ("", rf"AP {number}, "), strict=True):
        losses = rf"loss {number} \(blocks {number} {number}\)"
        end = rf"\| (5|10)/10, {number} images/s, ETA 0:\d\d:\d\d, {ap}{losses}"
        assert re.search(rf"{end}$", line.rstrip()), line
    # lines of the log are above the live line, without those that it replaces
    assert "Start inference on" in terminal.getvalue()
    assert "evaluate pets" in terminal.getvalue()
    assert "total_loss" not in terminal.getvalue()
    # the file has all lines of detectron2 and no bar
    log = log_file.getvalue()
    assert re.search(r"eta: \S+  iter: 9  total_loss: ", log)
    assert "Start inference on" in log and "\r" not in log and "epoch 1/2" not in log


def test_without_a_terminal_the_log_is_printed_as_it_is(cfg, tmp_path):
    with redirect_stdout(io.StringIO()) as output, detectron2_log(output) as log_file:
        trainer = train(cfg, tmp_path / "run")
        assert list(terminal_bar(range(3))) == [0, 1, 2]
    assert not any(isinstance(hook, LiveLine) for hook in trainer._hooks)
    assert isinstance(Trainer.build_test_loader(trainer.cfg, "pets"), DataLoader)
    assert re.search(r"eta: \S+  iter: 9  total_loss: ", output.getvalue())
    assert output.getvalue() == log_file.getvalue()


def test_other_processes_show_nothing(monkeypatch):
    monkeypatch.setattr("flowdet.terminal.comm.is_main_process", lambda: False)
    with on_terminal() as terminal:
        assert list(terminal_bar(range(3))) == [0, 1, 2]
    assert terminal.getvalue() == ""


def test_a_line_fits_a_narrow_terminal(cfg, tmp_path):
    with on_terminal(columns=60) as terminal:
        train(cfg, tmp_path / "run")
    lines = [x for x in re.split("[\r\n]", terminal.getvalue()) if x.startswith("epoch")]
    assert lines and max(len(line) for line in lines) <= 60
    assert "img/s" in lines[-1]


def test_80_columns_show_the_losses_of_all_blocks(cfg, tmp_path):
    cfg.MODEL.FLOW_DET.NUM_BLOCKS = 4
    with on_terminal(columns=80) as terminal:
        train(cfg, tmp_path / "run")
    number = r"\d[\d.e+]*"
    line = terminal.lines()[-2]
    four = rf"{number} {number} {number} {number}"
    assert re.search(rf", (loss {number} \({four}\)|losses {four})$", line), line


def test_80_columns_show_ap_and_the_losses_of_four_blocks_in_a_long_training():
    with EventStorage() as storage:
        storage.put_scalars(**{"time": 12.345, "total_loss": 2.731, "loss_cls": 2.731})
        storage.put_scalars(**{f"block{k}/cls": 0.6543 for k in range(4)}, **{"bbox/AP": 53.54})
        text = status(storage, 256, 4000, Length.BLOCKS)
    assert text == "20.7 img/s, ETA 13:43:00, AP 53.5, losses 0.65 0.65 0.65 0.65"
    assert len(f"epoch 10/100 58%, {text}") < 80


def test_a_length_in_iterations_shows_epochs_too(cfg, tmp_path):
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_EPOCHS = 0, 7, 0
    with on_terminal() as terminal:
        train(cfg, tmp_path / "run")
    # 5 images, one per iteration
    assert "epoch 1/2" in terminal.getvalue()
    assert terminal.lines()[-2].startswith("epoch 2/2 100%|")


@pytest.mark.parametrize("lines, columns", [(0, 0), (24, 0), (0, 60), (24, 60)])
def test_a_terminal_without_a_known_size_shows_bars(lines, columns):
    """Pseudo terminals, because tqdm asks the system for their size."""
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as stream:
        with redirect_stdout(stream):
            assert list(terminal_bar(range(3), desc="evaluate")) == [0, 1, 2]
        stream.flush()
        shown = os.read(controller, 10_000).decode()
    assert "evaluate:   0%|" in shown
    assert max(map(len, shown.split("\r"))) <= (columns or 79)


def test_a_loader_with_a_bar_is_like_the_loader():
    loader = DataLoader([1, 2, 3], batch_size=2)
    shown = LoaderWithBar(loader, "evaluate")
    assert len(shown) == 2 and shown.batch_size == 2
    with on_terminal() as terminal:
        assert [x.tolist() for x in shown] == [[1, 2], [3]]
    assert "evaluate:   0%|" in terminal.getvalue()
    # nothing is left of the bar
    assert terminal.getvalue().split("\r")[-1].strip() == ""


def test_status_by_hand():
    with EventStorage() as storage:
        assert status(storage, 8, 100) == ""
        for seconds in (0.5, 0.25, 0.25):
            storage.put_scalar("time", seconds)
        assert status(storage, 8, 100) == "32 images/s, ETA 0:00:25"
        storage.put_scalars(total_loss=3.0, loss_cls=2.0, loss_bbox=1.0)
        names = ("block0/cls", "block0/bbox", "block0/matched_iou", "block1/cls", "block1/bbox")
        for name, value in zip(names, (1.25, 0.5, 9, 0.75, 0.5), strict=True):
            storage.put_scalar(name, value)
        assert status(storage, 8, 100).endswith("0:00:25, loss 3 (blocks 1.75 1.25)")
        storage.put_scalars(**{"pets/bbox/AP": 41.26, "pets/bbox/AP50": 80.0})
        assert ", AP 41.3, loss 3 " in status(storage, 8, 100)
        assert status(storage, 8, 100, Length.SHORT).startswith("32 img/s, ")
        assert status(storage, 8, 100, Length.SHORTEST).endswith(" loss 3 (1.8 1.2)")
        storage.put_scalars(**{"block2/cls": 0.5})
        assert status(storage, 8, 100, Length.SHORT).endswith(" loss 3 (1.8 1.2 0.5)")
        assert status(storage, 8, 100, Length.BLOCKS).endswith(", losses 1.8 1.2 0.5")
        assert status(storage, 8, 100, Length.SHORTEST).endswith(" loss 3 (1.8 ... 0.5)")
    with EventStorage() as storage:
        storage.put_scalars(**{"classification/top1": 97.5, "total_loss": 0.5})
        assert status(storage, 8, 100) == "top-1 97.5, loss 0.5"
