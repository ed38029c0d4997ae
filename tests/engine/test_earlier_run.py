"""A new training in the folder of an earlier one."""

from pathlib import Path

import pytest
from torch import nn

from flowdet.engine import FlowDetCheckpointer
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.earlier_run import finish_setting_aside, set_earlier_run_aside
from tests.detection.tiny import tiny_cfg

FILES = ("metrics.json", "events.out.tfevents.1.host", "results.json", "step_0000003.pth")


@pytest.fixture
def cfg(tmp_path):
    """The config of a run with a checkpoint and metrics."""
    cfg = tiny_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    FlowDetCheckpointer(nn.Linear(2, 2), str(tmp_path)).save("model_0000004", iteration=4)
    for name in ("config.yaml", "log.txt", *FILES):
        (tmp_path / name).write_text(name)
    return cfg


def test_a_training_that_stops_at_once_is_not_resumed_from_the_earlier_one(cfg, tmp_path):
    moved = {"model_0000004.pth", "last_checkpoint", "config.yaml", *FILES}
    assert set_earlier_run_aside(cfg) == tmp_path / "earlier_1"
    assert {path.name for path in (tmp_path / "earlier_1").iterdir()} == moved
    assert newest_checkpoint(tmp_path) == ""
    assert newest_checkpoint(tmp_path / "earlier_1").endswith("earlier_1/model_0000004.pth")
    # a training may start from the config file that it overwrites
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"earlier_1", "log.txt", "config.yaml"}
    assert set_earlier_run_aside(cfg) is None
    (tmp_path / "metrics.json").write_text("")
    assert set_earlier_run_aside(cfg) == tmp_path / "earlier_2"


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_while_files_are_moved(cfg, tmp_path, monkeypatch, renames):
    rename, done = Path.rename, []

    def killed(path, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        set_earlier_run_aside(cfg)
    monkeypatch.undo()
    # --resume does not go on from a checkpoint that was not moved
    finish_setting_aside(tmp_path)
    assert newest_checkpoint(tmp_path) == ""
    assert newest_checkpoint(tmp_path / "earlier_1").endswith("earlier_1/model_0000004.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"earlier_1", "log.txt", "config.yaml"}
    finish_setting_aside(tmp_path)
    assert set_earlier_run_aside(cfg) is None


@pytest.mark.parametrize("name", ["", "..", "../other", "earlier_1/.."])
def test_files_are_moved_to_a_subfolder_only(cfg, tmp_path, name):
    (tmp_path / "moving_to").write_text(name)
    finish_setting_aside(tmp_path)
    assert newest_checkpoint(tmp_path / "earlier_1").endswith("earlier_1/model_0000004.pth")


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
def test_weights_of_the_earlier_training_are_still_found(cfg, tmp_path, query):
    cfg.MODEL.WEIGHTS = f"{tmp_path}/model_0000004.pth{query}"
    set_earlier_run_aside(cfg)
    assert cfg.MODEL.WEIGHTS == f"{tmp_path}/earlier_1/model_0000004.pth{query}"


@pytest.mark.parametrize("weights", ["", "other/model_0000004.pth", "detectron2://a/b.pkl"])
def test_other_weights_stay(cfg, weights):
    cfg.MODEL.WEIGHTS = weights
    assert set_earlier_run_aside(cfg)
    assert cfg.MODEL.WEIGHTS == weights


def test_a_mark_that_is_no_text(cfg, tmp_path):
    (tmp_path / "moving_to").write_bytes(b"\xff\xfe")
    finish_setting_aside(tmp_path)
    assert newest_checkpoint(tmp_path / "earlier_1").endswith("earlier_1/model_0000004.pth")


def test_links_go_on_naming_their_files(cfg, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "model.pth").write_text("on another disk")
    (tmp_path / "model_0000009.pth").symlink_to("disk/model.pth")
    (tmp_path / "model_final.pth").symlink_to("model_0000004.pth")
    # the name of the next subfolder is that of a link to nothing
    (tmp_path / "earlier_1").symlink_to("nothing")
    moved = set_earlier_run_aside(cfg)
    assert moved == tmp_path / "earlier_2"
    assert (moved / "model_0000009.pth").read_text() == "on another disk"
    assert (moved / "model_final.pth").resolve() == moved / "model_0000004.pth"


def test_no_link_leads_out_of_the_folder(cfg, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    cfg.OUTPUT_DIR = str(run)
    (run / "metrics.json").write_text("")
    (elsewhere / "file").write_text("of somebody else")
    (run / "moving_to").symlink_to(elsewhere / "file")
    (run / "earlier_1").symlink_to(elsewhere)
    assert set_earlier_run_aside(cfg) == run / "earlier_2"
    (run / "metrics.json").write_text("")
    (run / "moving_to").write_text("earlier_1")
    assert set_earlier_run_aside(cfg) == run / "earlier_3"
    assert (elsewhere / "file").read_text() == "of somebody else"
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
