"""A new training in the folder of an earlier one."""

import pytest
from torch import nn

from flowdet.engine import FlowDetCheckpointer
from flowdet.engine.checkpoint_files import newest_checkpoint
from flowdet.engine.earlier_run import set_earlier_run_aside
from tests.detection.tiny import tiny_cfg


@pytest.fixture
def cfg(tmp_path):
    """The config of a run with a checkpoint and metrics."""
    cfg = tiny_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    FlowDetCheckpointer(nn.Linear(2, 2), str(tmp_path)).save("model_0000004", iteration=4)
    for name in ("metrics.json", "config.yaml", "results.json", "step_0000003.pth", "log.txt"):
        (tmp_path / name).write_text(name)
    return cfg


def test_a_training_that_stops_at_once_is_not_resumed_from_the_earlier_one(cfg, tmp_path):
    moved = {"model_0000004.pth", "last_checkpoint", "metrics.json", "results.json", "config.yaml"}
    moved |= {"step_0000003.pth"}
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
