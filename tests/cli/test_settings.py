"""Wrong settings, and workers that end: every command prints one line, without a traceback."""

import os
import signal

import pytest
from torch.utils.data import get_worker_info

from flowdet.data.detection.mapper import FlowDatasetMapper
from tests.cli.commands import FOUR_IMAGES, NO_REPORT, SMALL
from tests.cli.conftest import ROOT

DIGITS = ("--config-file", ROOT / "configs" / "digits_flow.yaml")


def train(run, folder, *words):
    return run("tools/train_net.py", *DIGITS, *SMALL, *FOUR_IMAGES, "OUTPUT_DIR", folder, *words)


@pytest.mark.parametrize(
    "words, parts",
    [
        (["MODEL.DEVICE", "gpu"], ["MODEL.DEVICE is 'gpu'", "cuda"]),
        (["MODEL.DEVICE", "mps"], ["MODEL.DEVICE is 'mps'", "cpu"]),
        (["SOLVER.MAX_ITER", 0], ["SOLVER.MAX_ITER is 0", "at least 1"]),
        (["MODEL.PIXEL_MEAN", "[0,0]"], ["MODEL.PIXEL_MEAN is [0, 0]", "3 values"]),
        (["INPUT.FORMAT", "rgb"], ["INPUT.FORMAT is 'rgb'", "RGB, BGR"]),
        (["SOLVER.BASE_LR=0.1"], ["SOLVER.BASE_LR=0.1", "two words"]),
        (["SOLVER.BASE_LR"], ["SOLVER.BASE_LR has no value"]),
        (["MODEL.FLOW_DET.IN_FEATURES", "[res7]"], ["res7", "res3"]),
        (["SOLVER.OPTIMIZER", "Adam"], ["SOLVER.OPTIMIZER is 'Adam'", "AdamW"]),
    ],
)
def test_wrong_value(run, tmp_path, monkeypatch, words, parts):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    status, output = train(run, tmp_path / "run", *words)
    line = output.splitlines()[-1]
    assert status == 2 and line.startswith("error: ") and "Traceback" not in output
    assert all(part in line for part in parts), line


def test_tab_in_a_config_file(run, tmp_path):
    path = tmp_path / "tab.yaml"
    path.write_text(f"_BASE_: {ROOT}/configs/digits_flow.yaml\nSOLVER:\n\tMAX_ITER: 2\n")
    status, output = run("tools/train_net.py", "--config-file", path)
    assert status == 2
    assert output == f"error: {path}, line 3: there is a tab; indent with spaces\n"


def test_list_without_quotes_trains(run, tmp_path):
    lists = ("MODEL.FLOW_DET.IN_FEATURES", "[res3]", "MODEL.RESNETS.OUT_FEATURES", "[res3]")
    words = (*lists, "SOLVER.MAX_ITER", 1, *NO_REPORT)
    status, output = train(run, tmp_path / "run", *words)
    assert status == 0, output


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGKILL])
def test_worker_that_is_killed(run, tmp_path, monkeypatch, number):
    def kill(mapper, record):
        assert get_worker_info() is not None
        os.kill(os.getpid(), number)

    monkeypatch.setattr(FlowDatasetMapper, "__call__", kill)
    words = ("DATALOADER.NUM_WORKERS", 1, "SOLVER.MAX_ITER", 1, *NO_REPORT)
    status, output = train(run, tmp_path / "run", *words)
    line = output.splitlines()[-1]
    assert status == 1 and line.startswith("error: a worker process that loads data")
    assert "DATALOADER.NUM_WORKERS" in line and "--shm-size" in line


def test_image_that_a_worker_cannot_read(run, tmp_path, monkeypatch):
    def fail(mapper, record):
        raise OSError(f"cannot read image {record['file_name']}: broken")

    monkeypatch.setattr(FlowDatasetMapper, "__call__", fail)
    words = ("DATALOADER.NUM_WORKERS", 1, "SOLVER.MAX_ITER", 1, *NO_REPORT)
    status, output = train(run, tmp_path / "run", *words)
    line = output.splitlines()[-1]
    assert status == 1 and line.startswith("error: cannot read image ") and "broken" in line
