"""What a training writes when it starts."""

import errno
import os

import pytest
import torch

from flowdet.engine import load_config
from flowdet.engine.run_start import start_run


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr("flowdet.engine.run_start.collect_env_info", lambda: "a machine")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    return load_config("digits_flow", ["OUTPUT_DIR", str(tmp_path), "SEED", 5])


def start(cfg, trains=True):
    start_run(cfg, "options", str(cfg.OUTPUT_DIR + "/given.yaml"), trains=trains)


def test_config_seed_and_log(cfg, tmp_path, caplog):
    (tmp_path / "given.yaml").write_text("# Ünïcode", encoding="utf-8")
    cfg.CUDNN_BENCHMARK = True
    with caplog.at_level("INFO"), torch.random.fork_rng():
        start(cfg, trains=False)
        assert not torch.backends.cudnn.benchmark
        start(cfg)
        first = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(first, torch.rand(3))
    assert torch.backends.cudnn.benchmark
    assert (tmp_path / "config.yaml").read_text() == cfg.dump()
    for text in ("a machine", "Options: options", "given.yaml:\n# Ünïcode", "SEED: 5\n"):
        assert text in caplog.text


def test_a_full_disk_leaves_the_old_config(cfg, tmp_path, monkeypatch):
    (tmp_path / "given.yaml").touch()
    config = tmp_path / "config.yaml"
    config.write_text("of the run")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"^{config} cannot be written: the disk of {tmp_path} is"):
        start(cfg)
    assert config.read_text() == "of the run"
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "given.yaml"]
